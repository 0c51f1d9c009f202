// System: how the service is, and what this browser is to it.

import { html, signal, useEffect } from "./vendor/libraries.js";
import { ask, facts, needsKey, tryTo } from "./store.js";

const health = signal(null);
const PAUSE = 5000;

const Figure = ({ name, value, isBad }) => html`<div class="figure"><dt>${name}</dt><dd class=${isBad ? "wrong" : ""}>${value}</dd></div>`;

async function signOut() {
  await tryTo(async () => {
    await ask("DELETE", "v1/session");
    needsKey.value = true;
  });
}

export function System() {
  useEffect(() => {
    const look = async () => document.hidden || (health.value = (await tryTo(() => ask("GET", "health"))) ?? health.value);
    look();
    const timer = setInterval(look, PAUSE);
    return () => clearInterval(timer);
  }, []);
  const told = health.value;
  return html`<div class="page">
    <h1>System</h1>
    ${told
      ? html`<dl class="figures">
          <${Figure} name="Workers" value=${told.workers} isBad=${told.workers === 0} />
          <${Figure} name="Being made" value=${told.running} />
          <${Figure} name="In line" value=${told.queued} />
          <${Figure} name="Version" value=${told.version} />
        </dl>
        ${told.workers === 0 ? html`<p class="wrong" role="status">No worker is alive, so clips wait. See the service’s log, or run <code>promptreel doctor</code>.</p>` : null}`
      : html`<p class="hint">Asking …</p>`}
    <p class="hint">The counts are of all callers. <a href="docs" target="_blank" rel="noopener">The API’s documentation</a> has the rest.</p>
    ${facts.has_session ? html`<button type="button" onClick=${signOut}>Sign out</button>` : null}
  </div>`;
}
