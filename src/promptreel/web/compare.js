// Compare: two to four clips on one clock, side by side or wiped, with only the differences of their settings.

import { html, signal, useEffect, useRef } from "./vendor/libraries.js";
import * as store from "./store.js";
import { Dialog, IconButton } from "./parts.js";
import { rowsOf } from "./viewer.js";

const isWiped = signal(false);
const TOLERANCE = 0.05; // seconds that a clip may be apart from the first

/** Starts all clips together, and sets right those that drift. */
function useOneClock(elements, isPlaying) {
  useEffect(() => {
    const all = () => elements.current.filter(Boolean);
    let request;
    let isOver = false;
    const keep = () => {
      if (isOver) return;
      const [first, ...others] = all();
      for (const each of others) {
        const wanted = first.currentTime % (each.duration || 1);
        if (Math.abs(each.currentTime - wanted) > TOLERANCE) each.currentTime = wanted;
      }
      request = requestAnimationFrame(keep);
    };
    if (isPlaying) Promise.allSettled(all().map((each) => each.play())).then(keep);
    else for (const each of all()) each.pause();
    return () => {
      isOver = true; // clips may begin to play only later
      cancelAnimationFrame(request);
    };
  }, [isPlaying]);
}

export function differencesOf(videos) {
  const tables = videos.map((video) => new Map([["Prompt", video.prompt], ...rowsOf(video)].map(([name, value]) => [name, String(value ?? "")])));
  const names = [...tables[0].keys()].filter((name) => new Set(tables.map((table) => table.get(name))).size > 1);
  return names.map((name) => [name, tables.map((table) => table.get(name))]);
}

const Clip = ({ video, take, isMain }) =>
  video.output_type === "gif"
    ? html`<img class="screen" src=${store.contentOf(video)} alt=${video.prompt} />`
    : html`<video class="screen" ref=${take} src=${store.contentOf(video)} muted playsinline loop=${isMain} aria-label="${video.id}: ${video.prompt}"></video>`;

export function Compare({ ids, onClose }) {
  const videos = ids.map(store.videoOf).filter(Boolean);
  const elements = useRef([]);
  const isPlaying = useRef(signal(true)).current;
  const edge = useRef(null);
  useOneClock(elements, isPlaying.value);
  if (videos.length < 2) return null;
  const canWipe = videos.length === 2;
  const seek = (share) => {
    isPlaying.value = false;
    for (const each of elements.current.filter(Boolean)) {
      each.pause();
      each.currentTime = share * (each.duration || 0);
    }
  };
  const wipe = (share) => edge.current?.style.setProperty("--edge-at", `${share}%`);
  const differences = differencesOf(videos);
  return html`<${Dialog} kind="compare" label="Compare ${videos.length} clips" onClose=${onClose}>
    <header class="row compare-head"><h2 class="grow">Compare</h2>
      ${canWipe ? html`<button type="button" aria-pressed=${isWiped.value} onClick=${() => (isWiped.value = !isWiped.value)}>Wipe</button>` : null}
      <${IconButton} icon=${isPlaying.value ? "pause" : "play"} label=${isPlaying.value ? "Pause all" : "Play all"} onClick=${() => (isPlaying.value = !isPlaying.value)} />
      <${IconButton} icon="close" label="Close" onClick=${onClose} />
    </header>
    <div class="compared ${canWipe && isWiped.value ? "wiped" : ""}" ref=${edge}>
      ${videos.map((video, at) => html`<figure key=${video.id}><${Clip} video=${video} isMain=${at === 0} take=${(element) => (elements.current[at] = element)} /><figcaption>${video.id}</figcaption></figure>`)}
    </div>
    <div class="row compare-foot">
      ${canWipe && isWiped.value ? html`<label class="row grow">Edge <input class="grow" type="range" min="0" max="100" value="50" onInput=${(event) => wipe(event.target.value)} /></label>` : null}
      <label class="row grow">Time <input class="grow" type="range" min="0" max="0.999" step="0.001" value="0" onInput=${(event) => seek(Number(event.target.value))} /></label>
    </div>
    <div class="differences" tabindex="0" role="region" aria-label="What differs">
      ${differences.length === 0
        ? html`<p class="hint">All settings are equal.</p>`
        : html`<table><thead><tr><th scope="col">What differs</th>${videos.map((video) => html`<th scope="col" key=${video.id}>${video.id}</th>`)}</tr></thead>
            <tbody>${differences.map(([name, values]) => html`<tr key=${name}><th scope="row">${name}</th>${values.map((value, at) => html`<td key=${at}>${value || "–"}</td>`)}</tr>`)}</tbody></table>`}
    </div>
  <//>`;
}
