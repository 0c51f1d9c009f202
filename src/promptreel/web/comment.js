// Reads how a clip was made from the file itself: an mp4's comment, which every clip of this service has.

const MOST_BYTES = 64 << 20;
const CONTAINERS = new Set(["moov", "udta", "ilst", "©cmt"]);

/** The boxes between two places of a file, as [kind, start, end]. A wrong size ends the list. */
function* boxesOf(view, from, to) {
  for (let at = from; at + 8 <= to; ) {
    let size = view.getUint32(at);
    const kind = String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at + 4, 4));
    let head = 8;
    if (size === 1 && at + 16 <= to) {
      size = Number(view.getBigUint64(at + 8));
      head = 16;
    }
    if (size === 0) size = to - at;
    if (size < head || at + size > to) return;
    yield [kind, at + head, at + size];
    at += size;
  }
}

function findComment(view, from, to) {
  for (const [kind, start, end] of boxesOf(view, from, to)) {
    if (kind === "data" && end - start > 8) return new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + start + 8, end - start - 8));
    const skip = kind === "meta" ? 4 : 0;
    if (CONTAINERS.has(kind) || kind === "meta") {
      const found = findComment(view, start + skip, end);
      if (found) return found;
    }
  }
  return null;
}

const NAMES = { model_id: "model" };

/** What the clip's comment says, in the words of an answer; null if the file is not a clip of this kind. */
export async function readComment(file) {
  if (file.size > MOST_BYTES) return null;
  const view = new DataView(await file.arrayBuffer());
  try {
    const told = JSON.parse(findComment(view, 0, view.byteLength));
    const params = told.params ?? told;
    if (typeof params.prompt !== "string" || typeof params.model_id !== "string") return null;
    const { width, height, init_key: start, loras = [], ...rest } = params;
    const words = Object.fromEntries(Object.entries(rest).map(([name, value]) => [NAMES[name] ?? name, value]));
    return {
      ...words,
      size: `${width}x${height}`,
      loras: loras.map((lora) => ({ model: lora.model_id, strength: lora.strength })),
      input_reference: start ? start.split("/")[1] : null,
    };
  } catch {
    return null;
  }
}
