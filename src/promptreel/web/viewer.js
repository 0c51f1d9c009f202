// The viewer: one clip, frame by frame, with all its settings and the request that makes it.

import { html, signal, useEffect, useRef } from "./vendor/libraries.js";
import * as store from "./store.js";
import { Dialog, Icon, IconButton, bytes, seconds, shortScheduler, when } from "./parts.js";
import { LANGUAGES, snippet } from "./snippets.js";

const SPEEDS = [0.25, 0.5, 1, 1.5, 2];
const isLooped = signal(true);
const speed = signal(1);
const language = signal("curl");

/** A player that knows its frames. */
export function Player({ video, onElement }) {
  const element = useRef(null);
  const slider = useRef(null);
  const count = video.num_frames;
  const at = useRef(signal(0)).current;
  const isPaused = useRef(signal(false)).current;
  useEffect(() => {
    onElement?.(element.current);
    let request;
    const follow = () => {
      if (element.current) at.value = Math.min(count - 1, Math.floor(element.current.currentTime * video.fps + 1e-3));
      request = requestAnimationFrame(follow);
    };
    follow();
    return () => cancelAnimationFrame(request);
  }, [video.id]);
  useEffect(() => (element.current.playbackRate = speed.value), [speed.value, video.id]);
  const seek = (frame) => {
    element.current.pause();
    element.current.currentTime = (Math.min(count - 1, Math.max(0, frame)) + 0.5) / video.fps;
  };
  const toggle = () => (element.current.paused ? element.current.play() : element.current.pause());
  const onKeyDown = (event) => {
    const act = { " ": toggle, k: toggle, ",": () => seek(at.value - 1), ".": () => seek(at.value + 1) }[event.key];
    if (!act || event.target.closest("input, select, textarea, button:not(.screen)")) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  return html`<div class="player" onKeyDown=${onKeyDown}>
    <video class="screen" tabindex="0" ref=${element} src=${store.contentOf(video)} loop=${isLooped.value} autoplay muted playsinline aria-label=${video.prompt}
      onPlay=${() => (isPaused.value = false)} onPause=${() => (isPaused.value = true)} onClick=${toggle}></video>
    <div class="controls">
      <${IconButton} icon=${isPaused.value ? "play" : "pause"} label=${isPaused.value ? "Play" : "Pause"} onClick=${toggle} />
      <${IconButton} icon="back" label="One frame back (,)" onClick=${() => seek(at.value - 1)} />
      <${IconButton} icon="forward" label="One frame on (.)" onClick=${() => seek(at.value + 1)} />
      <input type="range" class="grow" ref=${slider} aria-label="Frame" min="0" max=${count - 1} value=${at.value} onInput=${(event) => seek(Number(event.target.value))} />
      <output class="number">${at.value + 1} / ${count}</output>
      <${IconButton} icon="loop" label="Loop" pressed=${isLooped.value} onClick=${() => (isLooped.value = !isLooped.value)} />
      <select aria-label="Speed" value=${String(speed.value)} onChange=${(event) => (speed.value = Number(event.target.value))}>
        ${SPEEDS.map((each) => html`<option value=${String(each)}>${each} ×</option>`)}
      </select>
    </div>
  </div>`;
}

/** The frame that a player shows, as a file. */
export async function grabFrame(element) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [element.videoWidth, element.videoHeight];
  canvas.getContext("2d").drawImage(element, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "frame.png", { type: "image/png" });
}

export const rowsOf = (video) => [
  ["Model", video.model],
  ["Motion", video.motion_adapter],
  ["Size", video.size.replace("x", " × ")],
  ["Length", `${video.num_frames} frames, ${Number(video.seconds)} s at ${video.fps} a second`],
  ["Seed", video.seed],
  ["Steps", video.num_inference_steps],
  ["Guidance", video.guidance_scale],
  ["Scheduler", shortScheduler(video.scheduler)],
  ["Negative prompt", video.negative_prompt],
  ["LoRAs", video.loras.map((lora) => `${lora.model} ${lora.strength}`).join(", ")],
  ["Embeddings", video.embeddings?.join(", ")],
  ["Starts from", video.input_reference && `a ${video.input_reference === "image" ? "picture" : "clip"}, may change ${Math.round(video.strength * 100)} %`],
  ["Clip skip", video.clip_skip || null],
  ["File", video.output_type],
];

function Facts({ video }) {
  const facts = [
    ...rowsOf(video),
    ["Made", when(video.created_at)],
    ["Took", video.inference_time_s === undefined ? null : seconds(video.inference_time_s)],
    ["Memory", video.peak_memory_mb === undefined ? null : bytes(video.peak_memory_mb * 1e6)],
    ["Id", video.id],
  ];
  return html`<dl class="facts">${facts.filter(([, value]) => value !== null && value !== "" && value !== undefined).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Snippets({ video }) {
  const code = snippet(language.value, video);
  return html`<section class="snippets" aria-label="This request">
    <div class="tabs" role="group" aria-label="Language">
      ${LANGUAGES.map(([name, label]) => html`<button type="button" key=${name} aria-pressed=${language.value === name} onClick=${() => (language.value = name)}>${label}</button>`)}
      <button type="button" class="quiet push" onClick=${() => copy(code)}>Copy</button>
    </div>
    <pre tabindex="0" aria-label="This request as code"><code>${code}</code></pre>
  </section>`;
}

async function copy(text) {
  await store.tryTo(async () => {
    if (!navigator.clipboard) throw new Error("This browser copies only over https or on this machine: select the text instead.");
    await navigator.clipboard.writeText(text);
    store.note("Copied.");
  });
}

export function Viewer({ video, onClose, onRemix, onStart, onNext, siblings }) {
  const element = useRef(null);
  const isDone = video.status === "completed";
  const isMoving = isDone && video.output_type !== "gif";
  const isFavourite = store.favourites.value.has(video.id);
  const remove = () => confirm("Delete this clip and its file?") && (onClose(), store.remove([video.id]));
  const onKeyDown = (event) => {
    if (event.target.closest("input, select, textarea")) return;
    const act = { ArrowLeft: () => onNext(-1), ArrowRight: () => onNext(1), r: () => onRemix(true), f: () => store.toggleFavourite(video.id) }[event.key];
    if (act) (event.preventDefault(), event.stopPropagation(), act());
  };
  return html`<${Dialog} kind="viewer" label="Clip ${video.id}" onClose=${onClose}>
    <div class="view" onKeyDown=${onKeyDown}>
      <header class="row"><${IconButton} icon="left" label="Newer clip (←)" disabled=${!siblings[0]} onClick=${() => onNext(-1)} /><${IconButton} icon="right" label="Older clip (→)" disabled=${!siblings[1]} onClick=${() => onNext(1)} />
        <span class="grow"></span><${IconButton} icon="star" kind="star" label="Favourite (f)" pressed=${isFavourite} onClick=${() => store.toggleFavourite(video.id)} /><${IconButton} icon="close" label="Close" onClick=${onClose} /></header>
      <div class="left">
        ${isMoving ? html`<${Player} video=${video} onElement=${(found) => (element.current = found)} />` : null}
        ${isDone && !isMoving ? html`<img class="screen" src=${store.contentOf(video)} alt=${video.prompt} />` : null}
        ${isDone ? null : html`<div class="failure ${video.error?.code === "cancelled" ? "calm" : ""}"><${Icon} name="alert" /><span>${video.error?.message}</span><code>${video.error?.code}</code></div>`}
      </div>
      <div class="right">
        <p class="whole-prompt">${video.prompt}</p>
        <div class="row wrap">
          <button type="button" class="primary" onClick=${() => onRemix(true)}><${Icon} name="remix" />Remix</button>
          <button type="button" onClick=${() => onRemix(false)}>With a new seed</button>
          ${isMoving ? html`<button type="button" onClick=${async () => onStart(await grabFrame(element.current))}><${Icon} name="image" />Use this frame</button>` : null}
        </div>
        <div class="row wrap">
          ${isDone ? html`<a class="button" href=${store.contentOf(video)} download="${video.id}.${video.output_type}"><${Icon} name="download" />Download</a>` : null}
          <button type="button" onClick=${() => copy(new URL(`#${video.id}`, document.baseURI).href)}><${Icon} name="link" />Copy link</button>
          <button type="button" class="danger" onClick=${remove}><${Icon} name="trash" />Delete</button>
        </div>
        <${Facts} video=${video} />
        <${Snippets} video=${video} />
      </div>
    </div>
  <//>`;
}
