// What the form holds, as signals; what it sends; and how it is filled from a clip.

import { batch, computed, effect, signal } from "./vendor/libraries.js";
import { ask, checkpoints, facts, kept, models } from "./store.js";

const EMPTY = {
  prompt: "",
  negative_prompt: "",
  enhance_prompt: false,
  model: "",
  size: "512x512",
  num_frames: null,
  fps: null,
  num_inference_steps: null,
  guidance_scale: null,
  scheduler: "",
  clip_skip: null,
  strength: null,
  output_type: "mp4",
  motion_adapter: "",
  loras: [],
  embeddings: [],
  seed: "",
};
export const SHOWN_APART = ["num_inference_steps", "guidance_scale", "scheduler", "fps", "clip_skip", "motion_adapter", "output_type"];
const DEFAULT_SECONDS = 4;

export const form = Object.fromEntries(
  Object.entries({ ...EMPTY, ...kept.read("draft", {}) }).map(([name, value]) => [name, signal(value)]),
);
export const isSeedLocked = signal(kept.read("locked", false));
export const copies = signal(1);
export const init = signal(null); // {file, url, kind, name}

effect(() => kept.write("draft", Object.fromEntries(Object.keys(EMPTY).map((name) => [name, form[name].value]))));
effect(() => kept.write("locked", isSeedLocked.value));

export const model = computed(() => checkpoints.value.find((each) => each.id === form.model.value) ?? checkpoints.value[0]);
export const frames = computed(() => form.num_frames.value ?? DEFAULT_SECONDS * (form.fps.value ?? model.value?.fps ?? 8));
export const changed = computed(() => SHOWN_APART.filter((name) => form[name].value !== EMPTY[name]));

export const reset = (name) => (form[name].value = EMPTY[name]);
export const resetAll = () =>
  batch(() => {
    for (const name of Object.keys(EMPTY)) if (name !== "model") reset(name);
    isSeedLocked.value = false;
    takeInit(null);
    axes.value = axes.value.map(() => ({ name: "", values: "" }));
  });

/** The request's fields; what is not set is the model's own. */
export function toFields() {
  const fields = { model: model.value?.id ?? "cutout", prompt: form.prompt.value.trim(), size: form.size.value, num_frames: frames.value };
  for (const name of SHOWN_APART) if (form[name].value !== EMPTY[name]) fields[name] = form[name].value;
  if (form.negative_prompt.value.trim()) fields.negative_prompt = form.negative_prompt.value;
  if (form.enhance_prompt.value) fields.enhance_prompt = true;
  if (form.loras.value.length) fields.loras = form.loras.value;
  if (form.embeddings.value.length) fields.embeddings = form.embeddings.value;
  if (isSeedLocked.value && form.seed.value !== "") fields.seed = Number(form.seed.value);
  if (init.value && form.strength.value !== null) fields.strength = form.strength.value;
  return fields;
}

const asText = (each) => (each.model ? `${each.model}:${each.strength}` : each); // in a multipart form

function toBody(fields) {
  if (!init.value) return fields;
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, Array.isArray(value) ? value.map(asText).join(",") : value);
  body.append("input_reference", init.value.file, init.value.name);
  return body;
}

/** Explore: one or two settings over several values, as a grid of clips with one seed. */
export const MOST_CELLS = 25;
export const AXES = ["guidance_scale", "num_inference_steps", "scheduler", "seed", "strength", "fps", "prompt"];
export const axes = signal([
  { name: "", values: "" },
  { name: "", values: "" },
]);

function valuesOf({ name, values }) {
  const words = values.split(name === "prompt" ? "|" : /[,\s]+/).map((each) => each.trim()).filter(Boolean);
  if (name === "prompt") return words;
  if (name !== "scheduler") return words.map(Number).filter(Number.isFinite);
  return words.map((word) => facts.schedulers.find((each) => each.toLowerCase().startsWith(word.toLowerCase()))).filter(Boolean);
}

/** The axes that have values; empty if nothing is explored. */
export const explored = computed(() => axes.value.map((axis) => ({ name: axis.name, values: valuesOf(axis) })).filter((axis) => axis.name && axis.values.length));
export const cellCount = computed(() => explored.value.reduce((count, axis) => count * axis.values.length, 1));

/** Queues one clip for each cell. Returns them by rows, with the axes. */
export async function sendGrid() {
  const [across, down = { name: "", values: [null] }] = explored.value;
  const fields = toFields();
  fields.seed ??= Math.floor(Math.random() * facts.max_seed);
  const rows = [];
  const made = [];
  for (const row of down.values) {
    const line = [];
    for (const column of across.values) {
      const cell = { ...fields, [across.name]: column, ...(down.name ? { [down.name]: row } : {}) };
      const video = await ask("POST", "v1/videos", { body: toBody(cell), headers: { "Idempotency-Key": newKey() } });
      made.push(video);
      line.push(video.id);
    }
    rows.push(line);
  }
  remember(fields.prompt);
  return { made, grid: { across, down, rows } };
}

const newKey = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;

/** Queues the clips, with seeds that follow each other. A key for each lets a request be repeated safely. */
export async function send() {
  const fields = toFields();
  const first = fields.seed ?? (copies.value > 1 ? Math.floor(Math.random() * facts.max_seed) : undefined);
  const made = [];
  for (let number = 0; number < copies.value; number += 1) {
    const seed = first === undefined ? {} : { seed: (first + number) % (facts.max_seed + 1) };
    const headers = { "Idempotency-Key": newKey() };
    made.push(await ask("POST", "v1/videos", { body: toBody({ ...fields, ...seed }), headers }));
  }
  if (!isSeedLocked.value) form.seed.value = String(made[0].seed);
  remember(fields.prompt);
  return made;
}

/** Past prompts of this browser, newest first. */
export const history = signal(kept.read("history", []));
function remember(prompt) {
  history.value = [prompt, ...history.value.filter((each) => each !== prompt)].slice(0, 50);
  kept.write("history", history.value);
}

export function takeInit(file) {
  if (init.value) URL.revokeObjectURL(init.value.url);
  const kind = file?.type.startsWith("video/") ? "video" : "image";
  init.value = file ? { file, kind, name: file.name ?? `start.${kind === "video" ? "mp4" : "png"}`, url: URL.createObjectURL(file) } : null;
}

/** Sets every field as a clip has it, or clears it. Returns what could not be restored, in words. */
export async function remix(video, { withSeed = true } = {}) {
  const missing = [];
  const hasModel = checkpoints.value.some((each) => each.id === video.model);
  if (!hasModel) missing.push(`the model “${video.model}” is not here`);
  const known = new Set((models.value ?? []).map((each) => each.id));
  const usable = video.loras.filter((lora) => known.has(lora.model));
  for (const lora of video.loras) if (!known.has(lora.model)) missing.push(`the LoRA “${lora.model}” is not here`);
  const embeddings = video.embeddings ?? [];
  for (const id of embeddings) if (!known.has(id)) missing.push(`the embedding “${id}” is not here`);
  if (video.motion_adapter && !known.has(video.motion_adapter)) missing.push(`the motion adapter “${video.motion_adapter}” is not here`);
  batch(() => {
    for (const name of Object.keys(EMPTY)) if (name in video) form[name].value = video[name];
    form.enhance_prompt.value = false; // the clip's prompt has all that was added to it
    form.model.value = hasModel ? video.model : form.model.value;
    form.loras.value = usable;
    form.embeddings.value = embeddings.filter((id) => known.has(id));
    form.motion_adapter.value = known.has(video.motion_adapter) ? video.motion_adapter : "";
    form.seed.value = withSeed ? String(video.seed) : "";
    isSeedLocked.value = withSeed;
    takeInit(null);
  });
  if (video.input_reference && !video.id) missing.push("what it started from is not in the file");
  else if (video.input_reference) await restoreInit(video).catch(() => missing.push("what it started from is not here any more"));
  return missing;
}

async function restoreInit(video) {
  const answer = await fetch(`v1/videos/${video.id}/content?variant=input`);
  if (!answer.ok) throw new Error();
  const blob = await answer.blob();
  takeInit(new File([blob], `start.${blob.type.split("/")[1]}`, { type: blob.type }));
}

/** The plan: what the request would make. It is asked for while somebody types, but not at every key. */
export const plan = signal(null);
const PAUSE = 350;
export function watchPlan() {
  let timer;
  let asked;
  effect(() => {
    const fields = toFields();
    init.value;
    clearTimeout(timer);
    if (!fields.prompt || !model.value) {
      plan.value = null;
      return;
    }
    timer = setTimeout(async () => {
      asked?.abort();
      asked = new AbortController();
      try {
        plan.value = await ask("POST", "v1/videos/plan", { body: fields, signal: asked.signal });
      } catch (error) {
        if (error.name !== "AbortError") plan.value = null;
      }
    }, PAUSE);
  });
}
