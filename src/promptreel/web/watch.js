// Watch: one list, newest first. What is being made stands above as rows with a bar; what is done is a grid below.

import { computed, html, signal, useEffect, useRef } from "./vendor/libraries.js";
import * as store from "./store.js";
import { Bar, Icon, IconButton, plural, prefersStill, ratioOf, seconds, stageOf } from "./parts.js";

const { favourites, ids, now, outlooks, videoOf } = store;

export const text = signal("");
export const shown = signal("all"); // "favourites", "failed"
export const ofModel = signal("");
export const chosen = signal(new Set());
export const isChoosing = signal(false);
export const current = signal(null); // the tile that keys act on
export const actions = { open: () => {}, remix: () => {}, compare: () => {}, showLastGrid: () => {} };

export const openIds = computed(() => (ids.value ?? []).filter((id) => store.isOpen(videoOf(id))).reverse());
export const endedIds = computed(() => (ids.value ?? []).filter((id) => !store.isOpen(videoOf(id)) && passes(videoOf(id))));

function passes(video) {
  const isWanted = { all: true, favourites: favourites.value.has(video.id), failed: video.status === "failed" }[shown.value];
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const said = `${video.prompt} ${video.model} ${video.seed}`.toLowerCase();
  return isWanted && (!ofModel.value || video.model === ofModel.value) && words.every((word) => said.includes(word));
}

export function choose(id) {
  const some = new Set(chosen.peek());
  if (!some.delete(id)) some.add(id);
  chosen.value = some;
  isChoosing.value = some.size > 0;
}

/** A clip that is waiting or being made. */
function Row({ id }) {
  const video = videoOf(id);
  const outlook = outlooks.value[id];
  const left = outlook ? Math.max(0, (outlook.doneAt - now.value) / 1000) : null;
  const isRunning = video.status === "in_progress";
  const isStopping = store.cancelling.value.has(id);
  const where = isStopping ? "stopping …" : isRunning ? `${stageOf(video)}, ${video.progress} %` : outlook?.place === 1 ? "next in line" : outlook ? `place ${outlook.place} in line` : "in line";
  return html`<li class="row-of-queue" data-id=${id}>
    <div class="thumb" style=${{ aspectRatio: ratioOf(video) }}>
      ${isRunning && video.preview_version ? html`<img src=${store.previewOf(video)} alt="What the clip will look like" />` : html`<span class="placeholder ${isRunning ? "busy" : ""}"></span>`}
    </div>
    <div class="grow">
      <p class="prompt" title=${video.prompt}>${video.prompt}</p>
      <p class="state"><span>${where}</span>${left === null ? null : html`<span class="left">${left < 1 ? "any moment" : `about ${seconds(left)}`}</span>`}</p>
      <${Bar} share=${video.progress} label="Progress of ${video.prompt.slice(0, 60)}" />
    </div>
    <${IconButton} icon="close" label="Cancel “${video.prompt.slice(0, 60)}”" disabled=${isStopping} onClick=${() => store.cancel(id)} />
  </li>`;
}

export function Queue() {
  const open = openIds.value;
  if (open.length === 0) return null;
  const cancelAll = () => open.forEach((id) => store.cancel(id));
  return html`<section class="queue" aria-labelledby="queue-title">
    <header><h2 id="queue-title">Being made <span class="count">${open.length}</span></h2>
      ${open.length > 1 ? html`<button type="button" class="quiet" onClick=${cancelAll}>Cancel all</button>` : null}</header>
    <ul>${open.map((id) => html`<${Row} key=${id} id=${id} />`)}</ul>
  </section>`;
}

/** A clip that has ended. It plays while the pointer or the focus is on it. */
function Tile({ id }) {
  const video = videoOf(id);
  const frame = useRef(null);
  const isPlaying = useRef(signal(false)).current;
  const isCurrent = current.value === id;
  useEffect(() => {
    if (isCurrent) frame.current.scrollIntoView({ block: "nearest" });
  }, [isCurrent]);
  const isDone = video.status === "completed";
  const play = () => isDone && !prefersStill() && (isPlaying.value = true);
  const rest = () => (isPlaying.value = false);
  const onClick = (event) => (isChoosing.value || event.shiftKey ? choose(id) : actions.open(id));
  return html`<li class="tile ${isCurrent ? "current" : ""} ${chosen.value.has(id) ? "chosen" : ""}" data-id=${id}
      onMouseEnter=${play} onMouseLeave=${rest} onFocusIn=${play} onFocusOut=${rest}>
    <button type="button" class="frame" ref=${frame} onClick=${onClick} onFocus=${() => (current.value = id)} style=${{ aspectRatio: ratioOf(video) }}
        aria-label=${isDone ? `Open “${video.prompt}”` : `Open “${video.prompt}”, which ${video.error.code === "cancelled" ? "was cancelled" : "failed"}`}>
      ${isDone ? html`<${Picture} video=${video} isPlaying=${isPlaying.value} />` : html`<${Failure} video=${video} />`}
    </button>
    <${IconButton} icon="star" kind="star" label="Favourite" pressed=${favourites.value.has(id)} onClick=${() => store.toggleFavourite(id)} />
    ${isChoosing.value
      ? html`<label class="choose"><input type="checkbox" checked=${chosen.value.has(id)} onChange=${() => choose(id)} aria-label="Choose “${video.prompt.slice(0, 60)}”" /></label>`
      : null}
    <p class="prompt" title=${video.prompt}>${video.prompt}</p>
    <p class="meta"><span>${Number(video.seconds)} s</span><span>${video.size.replace("x", " × ")}</span><span>seed ${video.seed}</span></p>
  </li>`;
}

const Picture = ({ video, isPlaying }) => {
  const url = store.contentOf(video);
  if (!store.facts.has_thumbnails && video.output_type !== "gif") return html`<video src=${url} muted preload="metadata" playsinline tabindex="-1" aria-hidden="true"></video>`;
  if (video.output_type === "gif") return html`<img src=${isPlaying || !store.facts.has_thumbnails ? url : store.contentOf(video, "thumbnail")} alt="" loading="lazy" />`;
  return html`<img src=${store.contentOf(video, "thumbnail")} alt="" loading="lazy" />
    ${isPlaying ? html`<video src=${url} muted loop autoplay playsinline disablepictureinpicture tabindex="-1" aria-hidden="true"></video>` : null}`;
};

const Failure = ({ video }) => {
  const isCancelled = video.error.code === "cancelled";
  return html`<span class="failure ${isCancelled ? "calm" : ""}"><${Icon} name=${isCancelled ? "close" : "alert"} /><span>${isCancelled ? "Cancelled" : video.error.message}</span></span>`;
};

function Filters() {
  const used = [...new Set((ids.value ?? []).map((id) => videoOf(id).model))].sort();
  const tabs = [["all", "All"], ["favourites", "Favourites"], ["failed", "Failed"]];
  return html`<div class="filters">
    <input type="search" placeholder="Search prompts" aria-label="Search prompts" value=${text.value} onInput=${(event) => (text.value = event.target.value)} />
    <div class="tabs" role="group" aria-label="Show">
      ${tabs.map(([name, label]) => html`<button type="button" key=${name} aria-pressed=${shown.value === name} onClick=${() => (shown.value = name)}>${label}</button>`)}
    </div>
    ${used.length > 1
      ? html`<select aria-label="Model" value=${ofModel.value} onChange=${(event) => (ofModel.value = event.target.value)}>
          <option value="">All models</option>${used.map((each) => html`<option value=${each}>${each}</option>`)}</select>`
      : null}
    ${store.kept.read("grid", null) ? html`<button type="button" class="quiet push" onClick=${actions.showLastGrid}>Last grid</button>` : null}
    <button type="button" class="quiet" aria-pressed=${isChoosing.value} onClick=${() => ((isChoosing.value = !isChoosing.value), (chosen.value = new Set()))}>${isChoosing.value ? "Done" : "Select"}</button>
  </div>`;
}

function Chosen() {
  const some = [...chosen.value];
  if (!isChoosing.value) return null;
  const done = some.filter((id) => videoOf(id)?.status === "completed");
  const leave = () => ((chosen.value = new Set()), (isChoosing.value = false));
  const remove = () => confirm(`Delete ${plural(some.length, "clip")} and their files?`) && store.remove(some).then(leave);
  const save = async () => (await import("./zip.js")).saveAll(done.map(videoOf));
  return html`<div class="chosen-bar" role="toolbar" aria-label="Chosen clips">
    <span>${some.length ? `${plural(some.length, "clip")} chosen` : "Choose clips"}</span>
    <button type="button" disabled=${done.length < 2 || done.length > 4} onClick=${() => actions.compare(done)}><${Icon} name="compare" />Compare</button>
    <button type="button" disabled=${done.length === 0} onClick=${() => store.tryTo(save)}><${Icon} name="download" />Download</button>
    <button type="button" class="danger" disabled=${some.length === 0} onClick=${remove}><${Icon} name="trash" />Delete</button>
  </div>`;
}

export function Gallery() {
  const all = ids.value;
  if (all === null) return html`<p class="hint">Reading the clips …</p>`;
  const ended = endedIds.value;
  return html`<section class="gallery" aria-labelledby="gallery-title">
    <header><h2 id="gallery-title">Clips</h2><${Filters} /></header>
    <${Chosen} />
    ${ended.length === 0 ? html`<p class="nothing">${openIds.value.length === all.length ? "The first clip is on its way." : "No clip matches."}</p>` : null}
    <ul class="tiles">${ended.map((id) => html`<${Tile} key=${id} id=${id} />`)}</ul>
    ${store.hasMore.value ? html`<button type="button" class="more" onClick=${store.readMore}>Older clips</button>` : null}
  </section>`;
}
