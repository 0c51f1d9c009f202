// Small pieces of the page that have no state of their own, and words for numbers.

import { html, useEffect, useRef } from "./vendor/libraries.js";
import { connection, dismiss, kept, notes, said } from "./store.js";

const PATHS = {
  play: "M8 5.5v13l11-6.5z",
  pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z",
  back: "M18 6v12l-8-6zM6 6h2.5v12H6z",
  forward: "M6 6v12l8-6zM15.5 6H18v12h-2.5z",
  left: "M15 5l1.500 1.500L11 12l5.500 5.500L15 19l-7-7z",
  right: "M9 5L7.500 6.500 13 12l-5.500 5.500L9 19l7-7z",
  loop: "M17 2l4 4-4 4V7H7a3 3 0 0 0-3 3v2H2v-2a5 5 0 0 1 5-5h10zM7 22l-4-4 4-4v3h10a3 3 0 0 0 3-3v-2h2v2a5 5 0 0 1-5 5H7z",
  star: "M12 3l2.7 5.8 6.3.8-4.6 4.4 1.2 6.3L12 17.2 6.4 20.300l1.2-6.300L3 9.600l6.300-.8z",
  trash: "M9 3h6l1 2h4v2H4V5h4zM6 9h12l-1 12H7z",
  close: "M6.400 5L12 10.600 17.600 5 19 6.400 13.400 12 19 17.600 17.600 19 12 13.400 6.400 19 5 17.600 10.600 12 5 6.400z",
  dice: "M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zm3 3.500a1.500 1.500 0 1 0 0 3 1.500 1.500 0 0 0 0-3zm8 8a1.500 1.500 0 1 0 0 3 1.500 1.500 0 0 0 0-3zm-4-4a1.500 1.500 0 1 0 0 3 1.500 1.500 0 0 0 0-3z",
  lock: "M7 10V8a5 5 0 0 1 10 0v2h1a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1zm2 0h6V8a3 3 0 0 0-6 0z",
  open: "M7 10V8a5 5 0 0 1 9.600-2l-1.800.8A3 3 0 0 0 9 8v2h9a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1z",
  remix: "M4 7h3.500c2 0 3 1 4 2.500l1.500 2.500c1 1.600 1.500 2 2.500 2H17v-3l4 4-4 4v-3h-1.500c-2 0-3-1-4-2.500L10 11c-1-1.600-1.500-2-2.500-2H4zM17 3l4 4-4 4V8h-1.500c-.7 0-1.200.2-1.800.8l-1.300-1.700C13.300 6.300 14.200 6 15.500 6H17zM4 16h3.500c.7 0 1.200-.2 1.800-.8l1.300 1.700c-1 .8-1.800 1.100-3.100 1.100H4z",
  image: "M4 4h16a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zm1 12.500V18h14v-3l-4-4-5 5-2-2zM8 7a2 2 0 1 0 0 4 2 2 0 0 0 0-4z",
  download: "M11 3h2v9l3.500-3.500L18 10l-6 6-6-6 1.500-1.500L11 12zM4 19h16v2H4z",
  link: "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.700-5.700l-1.700 1.700 1.400 1.400 1.700-1.700a2 2 0 1 1 2.900 2.900l-3 3a2 2 0 0 1-3-.3zm4-4a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.700 5.700l1.700-1.700-1.400-1.400-1.700 1.700a2 2 0 1 1-2.900-2.900l3-3a2 2 0 0 1 3 .3z",
  compare: "M4 4h7v16H4zm2 2v12h3V6zM13 4h7v16h-7z",
  check: "M9.500 16.200L5.300 12l-1.400 1.400 5.600 5.600L20.500 8l-1.400-1.400z",
  sun: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm0 2v14a7 7 0 0 1 0-14z",
  plus: "M11 5h2v6h6v2h-6v6h-2v-6H5v-2h6z",
  alert: "M12 3l10 18H2zm-1 7v5h2v-5zm0 6.500v2h2v-2z",
};

export const Icon = ({ name }) =>
  html`<svg class="icon" viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;

/** A button with an icon only. Its label is its name, and its tip. */
export const IconButton = ({ icon, label, pressed, kind = "", ...rest }) =>
  html`<button type="button" class="icon-button ${kind}" aria-label=${label} title=${label} aria-pressed=${pressed} ...${rest}>
    <${Icon} name=${icon} />
  </button>`;

export const Bar = ({ share, label }) => {
  const fill = useRef(null);
  useEffect(() => fill.current.style.setProperty("--share", share / 100), [share]);
  return html`<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${share} aria-label=${label}>
    <div ref=${fill}></div>
  </div>`;
};

/** What is said to screen readers, and the notes at the edge. */
export const Notes = () => html`
  <div class="unseen" aria-live="polite">${said.value}</div>
  <div class="notes" role="region" aria-label="Messages">
    ${notes.value.map(
      (entry) => html`<div class="note ${entry.isError ? "wrong" : ""}" role=${entry.isError ? "alert" : "status"} key=${entry.key}>
        ${entry.isError ? html`<${Icon} name="alert" />` : null}<span>${entry.text}</span>
        <${IconButton} icon="close" label="Close this message" onClick=${() => dismiss(entry)} />
      </div>`,
    )}
  </div>
`;

export const Connection = () =>
  connection.value === "lost"
    ? html`<div class="lost" role="status"><${Icon} name="alert" /> The server does not answer. Nothing is lost: this page goes on when it is back.</div>`
    : null;

/** Words. */

export function seconds(count) {
  const whole = Math.max(0, Math.round(count));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60 ? `${whole % 60} s` : ""}`.trim();
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

const STAGES = { loading: "loading the model", denoising: "drawing", decoding: "decoding", encoding: "writing the file", storing: "storing" };
export const stageOf = (video) => STAGES[video.stage] ?? "starting";

export const shortScheduler = (name) => name.replace(/Scheduler$/, "");

export const ratioOf = (video) => video.size.replace("x", " / ");

export const bytes = (count) =>
  count >= 1e9 ? `${(count / 1e9).toFixed(1)} GB` : count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : `${Math.ceil(count / 1e3)} kB`;

export const when = (stamp) =>
  new Date(stamp * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Light, dark, or as the system has it. */
const THEMES = ["auto", "light", "dark"];
export function applyTheme(theme = kept.read("theme", "auto")) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
export function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(kept.read("theme", "auto")) + 1) % THEMES.length];
  kept.write("theme", theme);
  applyTheme(theme);
  return theme;
}

export const prefersStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A dialog that closes by Escape and by a click beside it, and gives the focus back. */
export const Dialog = ({ label, kind = "", onClose, children }) => {
  const element = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  const onClick = (event) => event.target === element.current && onClose();
  return html`<dialog class=${kind} ref=${element} aria-label=${label} onClick=${onClick}
    onCancel=${(event) => (event.preventDefault(), onClose())}>${children}</dialog>`;
};
