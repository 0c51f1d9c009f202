// The page: its frame, its keys, and what is shown over it.

import { html, render, signal, useEffect } from "./vendor/libraries.js";
import * as store from "./store.js";
import { form, remix, takeInit, watchPlan } from "./form.js";
import { Make, actions, listenForFiles, promptBox } from "./make.js";
import * as watch from "./watch.js";
import { Connection, Dialog, IconButton, Notes, applyTheme, nextTheme } from "./parts.js";

const opened = signal(null); // the clip in the viewer
const compared = signal(null);
const gridded = signal(null);
const extra = signal({}); // modules that are loaded when they are first needed
const showsKeys = signal(false);
const hasSingleKeys = signal(store.kept.read("keys", true));
const place = signal("clips"); // or "models", "system"

async function load(name) {
  if (!extra.peek()[name]) extra.value = { ...extra.peek(), [name]: await import(`./${name}.js`) };
  return extra.peek()[name];
}

/** Opening a clip changes the address, so that it can be reloaded and sent. */
async function open(id) {
  await store.tryTo(async () => {
    const [video] = await Promise.all([store.find(id), load("viewer")]);
    opened.value = video;
    history.replaceState(null, "", `#${id}`);
  });
}

function close() {
  const id = opened.value?.id;
  opened.value = null; // a grid that is open comes back
  compared.value = null;
  history.replaceState(null, "", location.pathname + location.search);
  document.querySelector(`.tile[data-id="${id}"] .frame`)?.focus();
}

function goOn(by) {
  const all = watch.endedIds.value;
  const next = all[all.indexOf(opened.value.id) + by];
  if (next) open(next);
}

async function remixOf(video, withSeed) {
  if (!video) return;
  close();
  gridded.value = null;
  place.value = "clips";
  const missing = await remix(video, { withSeed });
  if (missing.length) store.note(`Not restored: ${missing.join("; ")}.`, { isError: true });
  else store.note("All settings of the clip are in the form.");
  document.querySelector(".make").scrollIntoView({ block: "start" });
  promptBox.focus();
}

function start(file) {
  close();
  gridded.value = null;
  takeInit(file);
  store.note("The next clip starts from this frame.");
  promptBox.focus();
}

async function compare(some) {
  await store.tryTo(async () => {
    await load("compare");
    compared.value = some;
  });
}

async function showGrid(grid) {
  store.kept.write("grid", grid);
  await store.tryTo(() => load("grid"));
  gridded.value = grid;
}

const showLastGrid = () => showGrid(store.kept.read("grid", null));

actions.grid = showGrid;
Object.assign(watch.actions, { open, compare, showLastGrid, remix: (id) => remixOf(store.videoOf(id), true) });

/** A dropped clip that this service, or another one of its kind, has made. Returns whether it was one. */
async function takeClip(file) {
  const { readComment } = await import("./comment.js");
  const told = await readComment(file);
  if (!told) return false;
  await remixOf(told, true);
  return true;
}

/** Keys. */

const KEYS = [
  ["/", "go to the prompt"],
  ["Ctrl Enter", "make the clip"],
  ["j, k", "next and previous clip"],
  ["Enter", "open the clip"],
  ["f", "favourite"],
  ["r", "remix: its settings into the form"],
  ["c", "choose it, to compare or delete"],
  ["x", "cancel what is being made"],
  ["Space , .", "in a clip: play, one frame back, one on"],
  ["← →", "in a clip: newer, older"],
  ["?", "this list"],
];

function step(by) {
  const all = watch.endedIds.value;
  const next = all[Math.min(all.length - 1, Math.max(0, all.indexOf(watch.current.value) + by))];
  if (next) document.querySelector(`.tile[data-id="${next}"] .frame`)?.focus();
}

function cancelNext() {
  const id = watch.openIds.value[0];
  if (id && confirm(`Cancel “${store.videoOf(id).prompt.slice(0, 80)}”?`)) store.cancel(id);
}

function onKey(event) {
  const isTyping = event.target.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !hasSingleKeys.value || store.needsKey.value) return;
  const id = watch.current.value;
  const act = {
    "/": () => promptBox.focus(),
    g: () => promptBox.focus(),
    j: () => step(1),
    k: () => step(-1),
    f: () => id && store.toggleFavourite(id),
    r: () => id && remixOf(store.videoOf(id), true),
    c: () => id && watch.choose(id),
    x: cancelNext,
    "?": () => (showsKeys.value = true),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

const Keys = () => html`<${Dialog} kind="keys" label="Keys" onClose=${() => (showsKeys.value = false)}>
  <header class="row"><h2 class="grow">Keys</h2><${IconButton} icon="close" label="Close" onClick=${() => (showsKeys.value = false)} /></header>
  <dl class="facts">${KEYS.map(([key, what]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${what}</dd></div>`)}</dl>
  <label class="toggle"><input type="checkbox" checked=${hasSingleKeys.value} onChange=${(event) => ((hasSingleKeys.value = event.target.checked), store.kept.write("keys", event.target.checked))} /><span>Single letters act as keys</span></label>
<//>`;

/** The first visit. */

const EXAMPLES = ["a red cat sitting on a bench", "a blue rocket rising in the snow", "a green turtle walking at night"];

const Welcome = () => html`<section class="welcome" aria-labelledby="welcome-title">
  <h2 id="welcome-title">Write what a clip shows, and watch it being made.</h2>
  <p>These three prompts work with the built-in model. Choose one to begin.</p>
  <div class="examples">
    <video src=${new URL("examples.mp4", import.meta.url).pathname} muted loop autoplay playsinline aria-hidden="true"></video>
    <div class="example-buttons">
      ${EXAMPLES.map((each) => html`<button type="button" key=${each} onClick=${() => ((form.prompt.value = each), promptBox.focus())}>${each}</button>`)}
    </div>
  </div>
  <p class="hint">The model draws a small world of paper cut-outs. It names the words that it does not know under the prompt.</p>
</section>`;

const Clips = () => html`<div class="columns">
  <${Make} />
  <div class="stage">
    <${watch.Queue} />
    ${store.ids.value?.length === 0 ? html`<${Welcome} />` : html`<${watch.Gallery} />`}
  </div>
</div>`;

/** The frame. */

const PLACES = [
  ["clips", "Clips"],
  ["models", "Models"],
  ["system", "System"],
];

async function goTo(name) {
  if (name !== "clips") await store.tryTo(() => load(name));
  place.value = name;
}

const Header = () => html`<header class="top">
  <a class="brand" href="./" onClick=${(event) => (event.preventDefault(), goTo("clips"))}><span class="logo" aria-hidden="true"></span>Promptreel</a>
  <nav aria-label="Pages">
    ${PLACES.map(([name, label]) => html`<button type="button" key=${name} aria-current=${place.value === name ? "page" : undefined} onClick=${() => goTo(name)}>${label}</button>`)}
    <a href="docs" target="_blank" rel="noopener">API</a>
  </nav>
  <span class="grow"></span>
  <${IconButton} icon="sun" label="Light or dark" onClick=${() => store.note(`Colors: ${nextTheme()}.`)} />
  <button type="button" class="icon-button" aria-label="Keys" title="Keys (?)" onClick=${() => (showsKeys.value = true)}>?</button>
</header>`;

function Page() {
  const { viewer, compare: comparing, grid, models, system, signin } = extra.value;
  useEffect(() => {
    if (store.needsKey.value) load("signin");
  }, [store.needsKey.value]);
  if (store.needsKey.value) return html`${signin ? html`<${signin.SignIn} />` : null}<${Notes} />`;
  const video = opened.value && (store.videoOf(opened.value.id) ?? opened.value);
  const all = watch.endedIds.value;
  const at = video ? all.indexOf(video.id) : -1;
  return html`<${Header} /><${Connection} />
    <main>
      ${place.value === "clips" ? html`<${Clips} />` : null}
      ${place.value === "models" && models ? html`<${models.Models} />` : null}
      ${place.value === "system" && system ? html`<${system.System} />` : null}
    </main>
    ${video && viewer
      ? html`<${viewer.Viewer} key="viewer" video=${video} siblings=${[all[at - 1], all[at + 1]]} onClose=${close} onNext=${goOn} onStart=${start} onRemix=${(withSeed) => remixOf(video, withSeed)} />`
      : null}
    ${compared.value && comparing ? html`<${comparing.Compare} ids=${compared.value} onClose=${close} />` : null}
    ${gridded.value && grid && !video ? html`<${grid.Grid} grid=${gridded.value} onOpen=${open} onClose=${() => (gridded.value = null)} />` : null}
    ${showsKeys.value ? html`<${Keys} />` : null}
    <${Notes} />`;
}

applyTheme();
render(html`<${Page} />`, document.getElementById("app"));
addEventListener("keydown", onKey);
listenForFiles(takeClip);
watchPlan();
store.follow();
if (/^#video_\d+$/.test(location.hash) && !store.needsKey.value) open(location.hash.slice(1));
addEventListener("hashchange", () => /^#video_\d+$/.test(location.hash) && open(location.hash.slice(1)));
