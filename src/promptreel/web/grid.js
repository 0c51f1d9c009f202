// A grid of clips: the values of one setting across, those of another one down. Its cells fill while they are made.

import { html } from "./vendor/libraries.js";
import * as store from "./store.js";
import { Bar, Dialog, IconButton, shortScheduler } from "./parts.js";

const spell = (name, value) => (name === "scheduler" ? shortScheduler(value) : String(value));
const WORDS = { guidance_scale: "guidance", num_inference_steps: "steps", fps: "frames a second" };
const wordOf = (name) => WORDS[name] ?? name;

function Cell({ id, onOpen }) {
  const video = store.videoOf(id);
  if (!video) return html`<td class="hint">deleted</td>`;
  if (video.status === "completed")
    return html`<td><button type="button" class="frame" aria-label="Open “${video.prompt}”" onClick=${() => onOpen(id)}>
      ${video.output_type === "gif" ? html`<img src=${store.contentOf(video)} alt="" />` : html`<video src=${store.contentOf(video)} muted loop autoplay playsinline tabindex="-1" aria-hidden="true"></video>`}
    </button></td>`;
  if (video.status === "failed") return html`<td class="wrong">${video.error.message}</td>`;
  return html`<td><div class="frame">${video.preview_version ? html`<img src=${store.previewOf(video)} alt="" />` : null}</div><${Bar} share=${video.progress} label="Progress" /></td>`;
}

export function Grid({ grid, onClose, onOpen }) {
  const { across, down, rows } = grid;
  return html`<${Dialog} kind="compare" label="Grid of clips" onClose=${onClose}>
    <header class="row compare-head"><h2 class="grow">${wordOf(across.name)}${down.name ? ` across, ${wordOf(down.name)} down` : ""}</h2><${IconButton} icon="close" label="Close" onClick=${onClose} /></header>
    <div class="differences grid" tabindex="0" role="region" aria-label="The clips">
      <table>
        <thead><tr>${down.name ? html`<td></td>` : null}${across.values.map((value) => html`<th scope="col" key=${value}>${spell(across.name, value)}</th>`)}</tr></thead>
        <tbody>${rows.map((line, at) => html`<tr key=${at}>${down.name ? html`<th scope="row">${spell(down.name, down.values[at])}</th>` : null}${line.map((id) => html`<${Cell} key=${id} id=${id} onOpen=${onOpen} />`)}</tr>`)}</tbody>
      </table>
    </div>
  <//>`;
}
