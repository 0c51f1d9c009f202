// Several clips as one file: a zip without compression, because clips are compressed already.

import { contentOf } from "./store.js";

const TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  for (let bit = 0; bit < 8; bit += 1) number = number & 1 ? (number >>> 1) ^ 0xedb88320 : number >>> 1;
  return number >>> 0;
});

function checksum(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Little-endian numbers: pairs of a size in bytes and a value. */
function pack(...pairs) {
  const view = new DataView(new ArrayBuffer(pairs.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of pairs) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

const DATE = [2, (46 << 9) | (1 << 5) | 1];
const describe = (name, data) => [[2, 20], [2, 0x800], [2, 0], [2, 0], DATE, [4, checksum(data)], [4, data.length], [4, data.length], [2, name.length], [2, 0]];

/** A zip file of these entries, as [name, bytes]. */
export function zip(entries) {
  const parts = [];
  const directory = [];
  let at = 0;
  for (const [text, data] of entries) {
    const name = new TextEncoder().encode(text);
    const told = describe(name, data);
    const head = pack([4, 0x04034b50], ...told);
    directory.push(pack([4, 0x02014b50], [2, 20], ...told, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
    parts.push(head, name, data);
    at += head.length + name.length + data.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = pack([4, 0x06054b50], [2, 0], [2, 0], [2, entries.length], [2, entries.length], [4, size], [4, at], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

export async function saveAll(videos) {
  const entries = [];
  for (const video of videos) {
    const answer = await fetch(contentOf(video));
    if (!answer.ok) throw new Error(`The file of ${video.id} could not be read.`);
    entries.push([`${video.id}.${video.output_type}`, new Uint8Array(await answer.arrayBuffer())]);
  }
  const url = URL.createObjectURL(zip(entries));
  const link = Object.assign(document.createElement("a"), { href: url, download: "clips.zip" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
