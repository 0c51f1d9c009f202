// Models: what is here, imports with their progress, and importing another one.

import { html, signal, useEffect } from "./vendor/libraries.js";
import * as store from "./store.js";
import { Bar, Icon, bytes, plural } from "./parts.js";

const source = signal("");
const id = signal("");
const problem = signal("");
const KINDS = { checkpoint: "Makes clips", motion_adapter: "Motion", lora: "LoRA", embedding: "Embedding", vae: "VAE" };

async function add(event) {
  event.preventDefault();
  problem.value = "";
  try {
    const body = { source: source.value.trim(), ...(id.value.trim() ? { id: id.value.trim() } : {}) };
    const made = await store.ask("POST", "v1/models", { body });
    store.imports.value = { ...store.imports.value, [made.id]: made };
    source.value = id.value = "";
  } catch (error) {
    problem.value = error.message;
  }
}

async function remove(model) {
  if (!confirm(`Delete the model “${model.name}” and its files?`)) return;
  await store.tryTo(() => store.ask("DELETE", `v1/models/${encodeURIComponent(model.id)}`));
  await store.tryTo(store.readModels);
}

const Import = ({ each }) => html`<li class="row-of-queue">
  <div class="grow"><p class="prompt"><b>${each.model}</b> from ${each.source}</p>
    ${each.status === "failed" ? html`<p class="wrong">${each.error.message}</p>` : html`<p class="state"><span>${each.status === "completed" ? "is here" : each.status === "queued" ? "in line" : `${each.progress} %`}</span></p>`}
    ${each.status === "in_progress" ? html`<${Bar} share=${each.progress} label="Import of ${each.model}" />` : null}</div>
  ${each.status === "queued" || each.status === "in_progress" ? html`<button type="button" onClick=${() => store.tryTo(() => store.ask("POST", `v1/models/imports/${each.id}/cancel`))}>Cancel</button>` : null}
</li>`;

const Model = ({ model }) => html`<li class="model-row">
  <div class="grow">
    <p><b>${model.name}</b> <code>${model.id}</code></p>
    <p class="hint">${[KINDS[model.kind] ?? model.kind, model.family, model.base, model.licence, model.size_bytes ? bytes(model.size_bytes) : null, model.source ? model.visibility : "on disk", model.loaded_on.length ? "loaded now" : null].filter(Boolean).join(" · ")}</p>
    ${model.description ? html`<p class="hint">${model.description}</p>` : null}
    ${model.trigger_words.length ? html`<p class="hint">Trigger: ${model.trigger_words.join(", ")}</p>` : null}
  </div>
  ${model.source ? html`<button type="button" class="danger" onClick=${() => remove(model)}><${Icon} name="trash" />Delete</button>` : null}
</li>`;

export function Models() {
  useEffect(() => void store.tryTo(store.readModels), []);
  const all = store.models.value ?? [];
  const imports = Object.values(store.imports.value).reverse();
  return html`<div class="page">
    <h1>Models</h1>
    <form class="sheet" onSubmit=${add} aria-label="Import a model">
      <label for="source">Import from a URL, or by hub id</label>
      <div class="row wrap">
        <input id="source" class="grow" required placeholder="https://… or owner/name" value=${source.value} onInput=${(event) => (source.value = event.target.value)} />
        <input class="short" aria-label="Id that it gets (optional)" placeholder="id (optional)" value=${id.value} onInput=${(event) => (id.value = event.target.value)} />
        <button type="submit" class="primary">Import</button>
      </div>
      ${problem.value ? html`<p class="wrong" role="alert">${problem.value}</p>` : html`<p class="hint">Only safetensors files are taken, and no code of a model runs.</p>`}
    </form>
    ${imports.length ? html`<section aria-labelledby="imports"><h2 id="imports">Imports</h2><ul class="list">${imports.map((each) => html`<${Import} key=${each.id} each=${each} />`)}</ul></section>` : null}
    <section aria-labelledby="here"><h2 id="here">${plural(all.length, "model")} here</h2><ul class="list">${all.map((model) => html`<${Model} key=${model.id} model=${model} />`)}</ul></section>
  </div>`;
}
