// What the server says, as signals. The page owns no state that matters: a reload reads all of it again.

import { batch, computed, effect, signal, untracked } from "./vendor/libraries.js";

export const facts = JSON.parse(document.querySelector("meta[name=promptreel]").content);

/** Requests. */

export class ApiError extends Error {
  constructor(status, { message, code, param }) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

const UNREACHABLE = { message: "The server does not answer. Is it still running?", code: "unreachable" };

/** Sends a request and returns the answer's JSON. Raises ApiError, with the API's own sentence. */
export async function ask(method, path, { body, headers = {}, signal: abort } = {}) {
  const isForm = body instanceof FormData;
  const init = { method, headers: { ...headers }, signal: abort };
  if (body !== undefined) {
    init.body = isForm ? body : JSON.stringify(body);
    if (!isForm) init.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, UNREACHABLE);
  }
  const data = await answer.json().catch(() => ({}));
  if (answer.status === 401) needsKey.value = true;
  if (!answer.ok) throw new ApiError(answer.status, data.error ?? { message: `The server answered ${answer.status}.` });
  return data;
}

/** What this browser keeps: drafts, favourites and the theme. */
export const kept = {
  read(name, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(`promptreel.${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  write(name, value) {
    try {
      localStorage.setItem(`promptreel.${name}`, JSON.stringify(value));
    } catch {
      // A browser that keeps nothing can use the page all the same.
    }
  },
};

/** State. */

export const needsKey = signal(facts.needs_key);
export const connection = signal("connecting"); // "live", "lost"
export const models = signal(null);
export const imports = signal({});
export const ids = signal(null); // of videos, newest first; null until they are read
export const hasMore = signal(false);
export const outlooks = signal({});
export const now = signal(Date.now());
export const said = signal(""); // for screen readers
export const notes = signal([]);
export const favourites = signal(new Set(kept.read("favourites", [])));
export const unfinished = signal(0);

const videos = new Map();
const numberOf = (id) => Number(id.slice(id.indexOf("_") + 1));
export const isOpen = (video) => video.status === "queued" || video.status === "in_progress";

/** A video by its id; undefined if it is not known. Whoever reads it in a component is drawn again when it changes. */
export const videoOf = (id) => videos.get(id)?.value;

export const checkpoints = computed(() => (models.value ?? []).filter((model) => model.kind === "checkpoint"));
export const loras = computed(() => (models.value ?? []).filter((model) => model.kind === "lora"));

function put(video) {
  const known = videos.get(video.id);
  if (known) {
    tellOfEnd(known.peek(), video);
    known.value = video;
  } else {
    videos.set(video.id, signal(video));
    const all = ids.peek() ?? [];
    const at = all.findIndex((id) => numberOf(id) < numberOf(video.id));
    ids.value = at < 0 ? [...all, video.id] : [...all.slice(0, at), video.id, ...all.slice(at)];
  }
}

function drop(id) {
  videos.delete(id);
  ids.value = (ids.peek() ?? []).filter((each) => each !== id);
}

function count() {
  let open = 0;
  for (const each of videos.values()) open += isOpen(each.peek());
  unfinished.value = open;
}

function tellOfEnd(before, after) {
  if (!isOpen(before) || isOpen(after)) return;
  const ending = after.status === "completed" ? "is done" : after.error.code === "cancelled" ? "was cancelled" : "failed";
  said.value = `The clip “${after.prompt.slice(0, 80)}” ${ending}.`;
}

/** A note at the edge of the page, for some seconds. */
export function note(text, { isError = false } = {}) {
  const entry = { text, isError, key: Math.random() };
  notes.value = [...notes.peek(), entry];
  setTimeout(() => dismiss(entry), isError ? 12000 : 5000);
}

export function dismiss(entry) {
  notes.value = notes.peek().filter((each) => each !== entry);
}

export async function tryTo(action) {
  try {
    return await action();
  } catch (error) {
    note(error.message, { isError: true });
    return undefined;
  }
}

/** Reading. */

const PAGE = 60;
const touched = new Set(); // changed by an event while a list was on its way: the event is newer

async function readPage({ after, isAnew = false } = {}) {
  touched.clear();
  const page = await ask("GET", `v1/videos?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  batch(() => {
    const listed = new Set(page.data.map((video) => video.id));
    if (isAnew) for (const id of [...videos.keys()]) if (!listed.has(id) && !touched.has(id)) drop(id);
    for (const video of page.data) if (!touched.has(video.id)) put(video);
    ids.value ??= [];
    hasMore.value = page.has_more;
    count();
  });
}

export const readMore = () => tryTo(() => readPage({ after: ids.peek().at(-1) }));

async function readAnew() {
  await Promise.all([readPage({ isAnew: true }), readModels()]);
}

export const readModels = async () => {
  models.value = (await ask("GET", "v1/models")).data;
};

/** A video that may be older than those that were read. */
export const find = async (id) => videos.get(id)?.peek() ?? ask("GET", `v1/videos/${id}`);

/** The stream of events. */

function receive({ event, data, id }) {
  if (id) lastId = id;
  const told = JSON.parse(data);
  switch (event) {
    case "ready":
      return told.resumed ? undefined : readAnew().catch(() => abort?.abort());
    case "video":
      touched.add(told.id);
      put(told);
      return count();
    case "import":
      imports.value = { ...imports.peek(), [told.id]: told };
      return told.status === "completed" ? tryTo(readModels) : undefined;
    case "deleted":
      touched.add(told.id);
      drop(told.id);
      return count();
    case "queue": {
      const at = Date.now();
      const found = {};
      for (const each of told.videos) found[each.id] = { place: each.queue_position, doneAt: at + each.eta * 1000 };
      outlooks.value = found;
      now.value = at;
      return undefined;
    }
    default:
      return undefined;
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    yield blocks.filter((block) => !block.startsWith(":")).map(parseEvent);
  }
}

function parseEvent(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(": ");
    fields[line.slice(0, at)] = line.slice(at + 2);
  }
  return fields;
}

let lastId = null;
let abort = null;
const sleep = (milliseconds) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    addEventListener("online", () => (clearTimeout(timer), resolve()), { once: true });
  });

const until = (test) =>
  new Promise((resolve) => {
    let end;
    end = effect(() => {
      if (test()) queueMicrotask(() => (end(), resolve()));
    });
  });

/** A page that nobody sees, and that waits for nothing, needs no stream: on return it catches up by the last id. */
const isNeeded = signal(true);
const IDLE_MILLISECONDS = 60000;
function watchVisibility() {
  let timer;
  const look = () => {
    clearTimeout(timer);
    if (!document.hidden) isNeeded.value = true;
    else if (unfinished.peek() === 0) timer = setTimeout(() => ((isNeeded.value = false), abort?.abort()), IDLE_MILLISECONDS);
  };
  document.addEventListener("visibilitychange", look);
  effect(() => (unfinished.value, look()));
}

async function readStream() {
  abort = new AbortController();
  const answer = await fetch("v1/events", { headers: lastId ? { "Last-Event-ID": lastId } : {}, signal: abort.signal });
  if (answer.status === 401) needsKey.value = true;
  if (!answer.ok) throw new Error(String(answer.status));
  connection.value = "live";
  for await (const events of eventsOf(answer.body)) batch(() => events.forEach(receive));
}

/** Reads the events for ever, and again from the last one after each interruption. */
export async function follow() {
  watchVisibility();
  for (let wait = 500; ; wait = Math.min(wait * 2, 10000)) {
    await until(() => isNeeded.value && !needsKey.value);
    const began = Date.now();
    await readStream().catch(() => {});
    if (isNeeded.peek()) connection.value = "lost";
    if (Date.now() - began > 5000) wait = 500;
    if (isNeeded.peek() && !needsKey.peek()) await sleep(wait);
  }
}

/** Time passes only while somebody waits. */
effect(() => {
  if (unfinished.value === 0) return undefined;
  const timer = setInterval(() => (now.value = Date.now()), 1000);
  return () => clearInterval(timer);
});

/** The tab's title shows the progress of what is being made. */
export const overall = computed(() => {
  now.value;
  if (unfinished.value === 0) return null;
  let done = 0;
  for (const each of videos.values()) if (isOpen(each.value)) done += each.value.progress;
  return Math.round(done / unfinished.value);
});
effect(() => {
  const share = overall.value;
  document.title = share === null ? "Promptreel" : `${share} % · ${unfinished.value} to go · Promptreel`;
});

/** Actions. */

/** Clips that shall stop: a running one goes on until its worker has heard of it. */
export const cancelling = signal(new Set());

export function cancel(id) {
  cancelling.value = new Set([...cancelling.peek(), id]);
  return tryTo(async () => {
    const video = await ask("POST", `v1/videos/${id}/cancel`);
    batch(() => (put(video), count()));
  });
}

export async function remove(some) {
  for (const id of some) {
    const done = await tryTo(() => ask("DELETE", `v1/videos/${id}`));
    if (done) batch(() => (drop(id), count()));
  }
}

export function add(video) {
  batch(() => (touched.add(video.id), put(video), count()));
}

export function toggleFavourite(id) {
  const some = new Set(favourites.peek());
  if (!some.delete(id)) some.add(id);
  favourites.value = some;
  kept.write("favourites", [...some]);
}

export const contentOf = (video, variant) => `v1/videos/${video.id}/content${variant ? `?variant=${variant}` : ""}`;
export const previewOf = (video) => `${contentOf(video, "preview")}&at=${video.preview_version}`;

export const peekVideos = () => untracked(() => (ids.value ?? []).map(videoOf));
