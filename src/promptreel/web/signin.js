// Signing in: the key is sent once, in a header, and the browser gets a cookie that no script can read.

import { html, signal, useEffect, useRef } from "./vendor/libraries.js";
import { ask, facts, needsKey } from "./store.js";
import { Icon } from "./parts.js";

const problem = signal("");

export function SignIn() {
  const box = useRef(null);
  useEffect(() => box.current.focus(), []);
  const submit = async (event) => {
    event.preventDefault();
    const key = box.current.value.trim();
    if (!key) return;
    try {
      await ask("POST", "v1/session", { headers: { Authorization: `Bearer ${key}` } });
      problem.value = "";
      facts.has_session = true;
      needsKey.value = false;
    } catch (error) {
      problem.value = error.status === 401 ? "This key is unknown here, or was revoked." : error.message;
    }
  };
  return html`<main class="sign-in">
    <form onSubmit=${submit}>
      <h1 class="brand"><span class="logo" aria-hidden="true"></span>Promptreel</h1>
      <label for="key">API key</label>
      <input id="key" ref=${box} type="password" autocomplete="current-password" spellcheck="false" required aria-describedby="key-hint" />
      ${problem.value ? html`<p class="wrong" role="alert"><${Icon} name="alert" /> ${problem.value}</p>` : null}
      <button type="submit" class="primary">Sign in</button>
      <p class="hint" id="key-hint">Whoever runs this server makes keys with <code>promptreel keys create NAME</code>. Yours stays in this browser for 30 days, out of the reach of scripts.</p>
    </form>
  </main>`;
}
