// Make: the form for a clip. The prompt comes first; what few people change is folded, and shown as chips where it is changed.

import { html, signal, useEffect, useRef } from "./vendor/libraries.js";
import { add, checkpoints, contentOf, facts, loras, models, peekVideos, tryTo } from "./store.js";
import * as state from "./form.js";
import { Icon, IconButton, plural, seconds, shortScheduler } from "./parts.js";

const { form, init, plan } = state;
const isSending = signal(false);
const isPicking = signal(false);

/** On a narrow screen, the settings are folded: the clips below them would be far away. */
const isWide = matchMedia("(min-width: 60rem)").matches;

export const actions = { grid: () => {} };
export const promptBox = { element: null, focus: () => promptBox.element?.focus() };

export async function submit() {
  if (isSending.value || !form.prompt.value.trim()) return promptBox.focus();
  isSending.value = true;
  await tryTo(async () => {
    if (state.explored.value.length === 0) return (await state.send()).forEach(add);
    const { made, grid } = await state.sendGrid();
    made.forEach(add);
    return actions.grid(grid);
  });
  isSending.value = false;
  return undefined;
}

const onEnter = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  }
};

function Prompt() {
  const box = useRef(null);
  const place = useRef(-1);
  useEffect(() => {
    promptBox.element = box.current;
    if (isWide) box.current.focus({ preventScroll: true });
  }, []);
  useEffect(() => {
    box.current.style.height = "auto";
    box.current.style.height = `${box.current.scrollHeight + 2}px`;
  }, [form.prompt.value]);
  const walk = (event) => {
    const { selectionStart: start, selectionEnd: end, value } = box.current;
    const past = state.history.value;
    const isUp = event.key === "ArrowUp" && start === 0 && end === 0 && place.current < past.length - 1;
    const isDown = event.key === "ArrowDown" && end === value.length && place.current >= 0;
    if (!isUp && !isDown) return;
    event.preventDefault();
    place.current += isUp ? 1 : -1;
    form.prompt.value = past[place.current] ?? "";
    queueMicrotask(() => box.current.setSelectionRange(isUp ? 0 : 1e6, isUp ? 0 : 1e6));
  };
  return html`<div class="field">
    <label for="prompt">Prompt</label>
    <textarea id="prompt" ref=${box} rows="3" maxlength=${facts.max_text} placeholder="What does the clip show?" aria-describedby="heard"
      value=${form.prompt.value} onInput=${(event) => ((form.prompt.value = event.target.value), (place.current = -1))} onKeyDown=${walk}></textarea>
    <${Heard} />
  </div>`;
}

/** What the model will get, and what it does not understand. */
function Heard() {
  const told = plan.value;
  const typed = form.prompt.value.trim();
  const at = told?.prompt?.indexOf(typed) ?? -1;
  const isAdded = form.enhance_prompt.value && at >= 0 && told.prompt !== typed;
  return html`<p class="heard" id="heard">
    ${isAdded ? html`<span class="ghost">The model gets: <b>${told.prompt.slice(0, at)}</b>${typed}<b>${told.prompt.slice(at + typed.length)}</b></span>` : null}
    ${told?.error ? html`<span class="wrong"><${Icon} name="alert" />${told.error.message}</span>` : null}
    ${told?.tip ? html`<span class="tip">${told.tip[0].toUpperCase() + told.tip.slice(1)}.</span>` : null}
  </p>`;
}

const Toggle = ({ name, children }) =>
  html`<label class="toggle"><input type="checkbox" checked=${form[name].value} onChange=${(event) => (form[name].value = event.target.checked)} /><span>${children}</span></label>`;

function Words() {
  const own = state.model.value?.default_negative_prompt;
  return html`<div class="row wrap">
      <${Toggle} name="enhance_prompt">Enhance with the model’s own words<//>
    </div>
    <details class="fold" open=${Boolean(form.negative_prompt.value)}>
      <summary>Negative prompt</summary>
      <textarea id="negative" rows="2" aria-label="Negative prompt" maxlength=${facts.max_text} placeholder=${own || "What should not be there"}
        value=${form.negative_prompt.value} onInput=${(event) => (form.negative_prompt.value = event.target.value)}></textarea>
    </details>`;
}

/** The model. */

const sampleOf = (id) => facts.has_thumbnails && peekVideos().find((video) => video.model === id && video.status === "completed");

const ModelCard = ({ each, isChosen, onPick }) => {
  const sample = sampleOf(each.id);
  return html`<button type="button" class="model-card" role="radio" aria-checked=${isChosen} onClick=${onPick}>
    <span class="sample">${sample ? html`<img src=${contentOf(sample, "thumbnail")} alt="" loading="lazy" />` : html`<${Icon} name="image" />`}</span>
    <span class="about"><b>${each.name}</b>
      <small>${[each.family, each.base, each.licence, each.loaded_on.length ? "loaded now" : null].filter(Boolean).join(" · ")}</small>
      ${each.description ? html`<small>${each.description}</small>` : null}
      ${each.trigger_words.length ? html`<small>Trigger: ${each.trigger_words.join(", ")}</small>` : null}
    </span>
  </button>`;
};

function Models() {
  if (models.value === null) return html`<div class="field"><span class="label">Model</span><div class="placeholder"></div></div>`;
  const chosen = state.model.value;
  if (!chosen) return html`<p class="wrong">There is no model that makes clips. Add one with <code>promptreel models add</code>.</p>`;
  const several = checkpoints.value.length > 1;
  const pick = (each) => ((form.model.value = each.id), (isPicking.value = false));
  const insert = (word) => (form.prompt.value = `${word} ${form.prompt.value}`.trim());
  return html`<div class="field">
    <span class="label" id="model-label">Model</span>
    ${several && isPicking.value
      ? html`<div class="models" role="radiogroup" aria-labelledby="model-label">
          ${checkpoints.value.map((each) => html`<${ModelCard} key=${each.id} each=${each} isChosen=${each === chosen} onPick=${() => pick(each)} />`)}
        </div>`
      : html`<div class="chosen">
          <div class="grow"><b>${chosen.name}</b> <small>${chosen.family}${chosen.licence ? ` · ${chosen.licence}` : ""}${chosen.loaded_on.length ? " · loaded now" : ""}</small></div>
          ${several ? html`<button type="button" onClick=${() => (isPicking.value = true)}>Change model</button>` : null}
        </div>`}
    ${chosen.trigger_words.length
      ? html`<div class="row wrap chips">${chosen.trigger_words.map((word) => html`<button type="button" class="chip" onClick=${() => insert(word)} title="Add to the prompt">+ ${word}</button>`)}</div>`
      : null}
    ${chosen.description && !isPicking.value ? html`<p class="hint">${chosen.description}</p>` : null}
  </div>`;
}

/** Size and length. */

const SIZES = [
  ["512x512", "Square"],
  ["768x432", "Wide"],
  ["432x768", "Tall"],
  ["640x480", "4:3"],
];

function Size() {
  const [width, height] = form.size.value.split("x");
  const set = (side, value) => (form.size.value = side ? `${width}x${value}` : `${value}x${height}`);
  const made = plan.value?.made_at;
  return html`<fieldset class="field">
    <legend>Size</legend>
    <div class="sizes">
      ${SIZES.map(
        ([size, name]) => html`<label class="size" key=${size}>
          <input type="radio" name="size" checked=${form.size.value === size} onChange=${() => (form.size.value = size)} />
          <span><i class="shape" style=${{ aspectRatio: size.replace("x", " / ") }}></i>${name}</span>
        </label>`,
      )}
    </div>
    <div class="row">
      <input type="number" aria-label="Width in pixels" min="64" max="1792" step="8" value=${width} onChange=${(event) => set(0, event.target.value)} />
      <span aria-hidden="true">×</span>
      <input type="number" aria-label="Height in pixels" min="64" max="1792" step="8" value=${height} onChange=${(event) => set(1, event.target.value)} />
      <span class="hint grow">${made ? `drawn at ${made.replace("x", " × ")}, then scaled` : "pixels"}</span>
    </div>
  </fieldset>`;
}

function Length() {
  const fps = form.fps.value ?? plan.value?.fps ?? state.model.value?.fps ?? 8;
  const count = state.frames.value;
  const set = (event) => (form.num_frames.value = Math.min(facts.max_frames, Math.max(1, Number(event.target.value) || 1)));
  const planned = plan.value?.num_frames;
  return html`<div class="field">
    <label for="frames">Length <span class="hint">${Number((count / fps).toFixed(2))} s at ${fps} frames a second</span></label>
    <div class="row">
      <input type="range" class="grow" aria-label="Length in frames" min="1" max=${Math.min(facts.max_frames, 15 * fps)} value=${count} onInput=${set} />
      <input id="frames" type="number" class="short" min="1" max=${facts.max_frames} value=${count} onChange=${set} />
      <span class="hint">frames</span>
    </div>
    ${planned && planned !== count ? html`<p class="hint">The model makes ${planned} frames.</p>` : null}
  </div>`;
}

/** Seed: unlocked, each clip gets a new one; locked, all get this one. */
function Seed() {
  const isLocked = state.isSeedLocked.value;
  const roll = () => ((form.seed.value = String(Math.floor(Math.random() * (facts.max_seed + 1)))), (state.isSeedLocked.value = true));
  const type = (event) => ((form.seed.value = event.target.value.replace(/\D/g, "")), (state.isSeedLocked.value = form.seed.value !== ""));
  const lock = () => (!isLocked && form.seed.value === "" ? roll() : (state.isSeedLocked.value = !isLocked));
  return html`<div class="field">
    <label for="seed">Seed <span class="hint">${isLocked ? "the same for every clip" : "a new one for every clip"}</span></label>
    <div class="row">
      <input id="seed" class="grow ${isLocked ? "" : "faint"}" inputmode="numeric" placeholder="random" value=${form.seed.value} onInput=${type} />
      <${IconButton} icon="dice" label="Roll a seed, and lock it" onClick=${roll} />
      <${IconButton} icon=${isLocked ? "lock" : "open"} label="Lock the seed" pressed=${isLocked} onClick=${lock} />
    </div>
  </div>`;
}

/** What the clip starts from. */
function Start() {
  const input = useRef(null);
  const given = init.value;
  const take = (files) => files?.[0] && state.takeInit(files[0]);
  if (!given)
    return html`<div class="field">
      <button type="button" class="drop" onClick=${() => input.current.click()}><${Icon} name="image" /><span>Start from a picture or clip <small>choose, drop or paste one</small></span></button>
      <input ref=${input} type="file" hidden accept="image/*,video/*" onChange=${(event) => (take(event.target.files), (event.target.value = ""))} />
    </div>`;
  const strength = form.strength.value ?? plan.value?.strength ?? 0.55;
  return html`<div class="field start">
    <div class="row">
      ${given.kind === "video" ? html`<video src=${given.url} muted playsinline aria-label="The clip to start from"></video>` : html`<img src=${given.url} alt="The picture to start from" />`}
      <div class="grow"><label for="strength">Starts from ${given.kind === "video" ? "this clip" : "this picture"} <span class="hint">may change ${Math.round(strength * 100)} %</span></label>
        <input id="strength" type="range" min="0" max="1" step="0.05" value=${strength} onInput=${(event) => (form.strength.value = Number(event.target.value))} /></div>
      <${IconButton} icon="close" label="Start from nothing" onClick=${() => state.takeInit(null)} />
    </div>
  </div>`;
}

function Loras() {
  if (loras.value.length === 0) return null;
  const rows = form.loras.value;
  const set = (at, change) => (form.loras.value = rows.map((row, index) => (index === at ? { ...row, ...change } : row)));
  const addRow = () => (form.loras.value = [...rows, { model: loras.value[0].id, strength: 1 }]);
  return html`<fieldset class="field">
    <legend>LoRAs</legend>
    ${rows.map(
      (row, at) => html`<div class="row" key=${at}>
        <select class="grow" aria-label="LoRA" value=${row.model} onChange=${(event) => set(at, { model: event.target.value })}>
          ${loras.value.map((each) => html`<option value=${each.id}>${each.name}</option>`)}
        </select>
        <input type="range" min="-1" max="2" step="0.05" aria-label="Strength of ${row.model}" value=${row.strength} onInput=${(event) => set(at, { strength: Number(event.target.value) })} />
        <output class="number">${row.strength.toFixed(2)}</output>
        <${IconButton} icon="close" label="Remove ${row.model}" onClick=${() => (form.loras.value = rows.filter((_, index) => index !== at))} />
      </div>`,
    )}
    ${rows.length < facts.most_loras ? html`<button type="button" class="quiet" onClick=${addRow}><${Icon} name="plus" />Add a LoRA</button>` : null}
  </fieldset>`;
}

/** Embeddings come with a remixed clip; a click takes one away. */
const Embeddings = () =>
  form.embeddings.value.length === 0
    ? null
    : html`<div class="row wrap chips">${form.embeddings.value.map((id) => html`<button type="button" class="chip" key=${id} title="Remove this embedding" onClick=${() => (form.embeddings.value = form.embeddings.value.filter((each) => each !== id))}>${id} <span aria-hidden="true">×</span></button>`)}</div>`;

/** What few people change. */

const LABELS = {
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  scheduler: "Scheduler",
  fps: "Frames a second",
  clip_skip: "Clip skip",
  output_type: "File",
  motion_adapter: "Motion",
};

const Number_ = ({ name, range: [least, most], step = 1 }) =>
  html`<label class="cell"><span>${LABELS[name]}</span>
    <input type="number" min=${least} max=${most} step=${step} placeholder=${plan.value?.[name] ?? "the model’s"} value=${form[name].value ?? ""}
      onChange=${(event) => (form[name].value = event.target.value === "" ? null : Number(event.target.value))} /></label>`;

const Choice = ({ name, options, unset, spell = (each) => each }) =>
  html`<label class="cell"><span>${LABELS[name]}</span>
    <select value=${form[name].value} onChange=${(event) => (form[name].value = event.target.value)}>
      ${unset === undefined ? null : html`<option value="">${unset}</option>`}
      ${options.map((each) => html`<option value=${each}>${spell(each)}</option>`)}
    </select></label>`;

function Advanced() {
  const adapters = (models.value ?? []).filter((each) => each.kind === "motion_adapter").map((each) => each.id);
  const planned = plan.value?.scheduler;
  return html`<details class="fold">
      <summary>Steps, guidance, scheduler, file</summary>
      <div class="cells">
        <${Number_} name="num_inference_steps" range=${facts.steps} />
        <${Number_} name="guidance_scale" range=${facts.guidance} step="0.5" />
        <${Choice} name="scheduler" options=${facts.schedulers} unset=${planned && !form.scheduler.value ? shortScheduler(planned) : "the model’s"} spell=${shortScheduler} />
        <${Number_} name="fps" range=${facts.fps} />
        <${Number_} name="clip_skip" range=${[0, 12]} />
        <${Choice} name="output_type" options=${facts.output_types} />
        ${adapters.length ? html`<${Choice} name="motion_adapter" options=${adapters} unset="the model’s" />` : null}
      </div>
    </details>
    ${state.changed.value.length
      ? html`<div class="row wrap chips">
          ${state.changed.value.map(
            (name) => html`<button type="button" class="chip" key=${name} title="Back to the model’s own" onClick=${() => state.reset(name)}>
              ${LABELS[name]} ${name === "scheduler" ? shortScheduler(form[name].value) : form[name].value} <span aria-hidden="true">×</span></button>`,
          )}
        </div>`
      : null}`;
}

const NAMES = { ...LABELS, seed: "Seed", strength: "Strength", prompt: "Prompt" };
const HINTS = { prompt: "a cat | a dog", scheduler: "DDIM, Euler, UniPC", seed: "1, 2, 3", strength: "0.3, 0.6, 0.9" };

/** One or two settings over several values. */
function Explore() {
  const [first, second] = state.axes.value;
  const set = (at, change) => (state.axes.value = state.axes.value.map((axis, index) => (index === at ? { ...axis, ...change } : axis)));
  const row = (axis, at, label) => html`<div class="row" key=${at}>
    <select aria-label=${label} value=${axis.name} onChange=${(event) => set(at, { name: event.target.value })}>
      <option value="">${at ? "and …" : "nothing"}</option>
      ${state.AXES.map((name) => html`<option value=${name}>${NAMES[name]}</option>`)}
    </select>
    <input class="grow" aria-label="Values of ${label.toLowerCase()}" disabled=${!axis.name} placeholder=${HINTS[axis.name] ?? "3, 5, 7"} value=${axis.values} onInput=${(event) => set(at, { values: event.target.value })} />
  </div>`;
  return html`<details class="fold" open=${Boolean(first.name)}>
    <summary>Explore values of a setting</summary>
    <div class="axes">${row(first, 0, "Setting across")}${first.name ? row(second, 1, "Setting down") : null}</div>
  </details>`;
}

function Go() {
  const told = plan.value;
  const isGrid = state.explored.value.length > 0;
  const count = isGrid ? state.cellCount.value : state.copies.value;
  const isTooMany = isGrid && count > state.MOST_CELLS;
  const place = told?.queue_position;
  return html`<div class="go">
    <div class="row">
      <button type="submit" class="primary grow" disabled=${isSending.value || isTooMany}>${isSending.value ? "Sending …" : count === 1 ? "Make the clip" : `Make ${count} clips`}</button>
      ${isGrid ? null : html`<select aria-label="How many clips" title="How many clips, with different seeds" value=${String(count)} onChange=${(event) => (state.copies.value = Number(event.target.value))}>
        ${[1, 2, 4, 8].map((each) => html`<option value=${String(each)}>× ${each}</option>`)}
      </select>`}
    </div>
    <p class="hint">
      ${isTooMany ? html`<span class="wrong">At most ${state.MOST_CELLS} clips at once.</span>` : told && !told.error
        ? html`About ${seconds(told.eta)}${count > 1 ? " for the first" : ""}${place > 1 ? `, after ${plural(place - 1, "other clip")}` : ""}`
        : html`<kbd>Ctrl</kbd> <kbd>Enter</kbd> makes it, <kbd>?</kbd> lists all keys`}
      <button type="button" class="quiet" onClick=${state.resetAll}>Clear</button>
    </p>
  </div>`;
}

export function Make() {
  const onSubmit = (event) => (event.preventDefault(), submit());
  return html`<form class="make" aria-label="Make a clip" onSubmit=${onSubmit} onKeyDown=${onEnter}>
    <div class="fields">
      <${Prompt} />
      <details class="settings" open=${isWide}>
        <summary>Settings</summary>
        <div><${Words} /><${Models} /><${Size} /><${Length} /><${Seed} /><${Start} /><${Loras} /><${Embeddings} /><${Advanced} /><${Explore} /></div>
      </details>
    </div>
    <${Go} />
  </form>`;
}

/** Pictures and clips that are dropped or pasted anywhere on the page. A clip of this service brings its settings, too. */
export function listenForFiles(onClip) {
  const take = async (file, event) => {
    if (!file || !/^(image|video)\//.test(file.type)) return;
    event.preventDefault();
    if (!(file.type.startsWith("video/") && (await onClip(file)))) state.takeInit(file);
  };
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => (event.preventDefault(), take(event.dataTransfer.files[0], event)));
  addEventListener("paste", (event) => take([...event.clipboardData.files][0], event));
}

