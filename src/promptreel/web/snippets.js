// A clip's request as code. It has every setting, so it makes the same clip again.

export const LANGUAGES = [
  ["curl", "curl"],
  ["python", "Python"],
  ["javascript", "JavaScript"],
];

const PLAIN = ["model", "prompt", "negative_prompt", "size", "num_frames", "fps", "num_inference_steps", "guidance_scale", "scheduler", "seed", "output_type"];

/** The fields that make this clip. */
export function fieldsOf(video) {
  const fields = Object.fromEntries(PLAIN.filter((name) => video[name] !== "").map((name) => [name, video[name]]));
  if (video.clip_skip) fields.clip_skip = video.clip_skip;
  if (video.motion_adapter) fields.motion_adapter = video.motion_adapter;
  if (video.loras.length) fields.loras = video.loras;
  if (video.embeddings?.length) fields.embeddings = video.embeddings;
  if (video.input_reference) Object.assign(fields, { strength: video.strength, input_reference: "https://…" });
  return fields;
}

const address = (path) => new URL(path, document.baseURI).href;
const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const indent = (text) => text.replaceAll("\n", "\n    ");

function inPython(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(inPython).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${inPython(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

const WRITERS = {
  curl: (fields) =>
    [`curl ${inShell(address("v1/videos"))}`, '-H "Authorization: Bearer $PROMPTREEL_API_KEY"', '-H "Content-Type: application/json"', `-d ${inShell(JSON.stringify(fields, null, 2))}`].join(" \\\n  "),
  python: ({ prompt, ...options }) =>
    `from promptreel import Client

with Client(${JSON.stringify(address("./").replace(/\/$/, ""))}) as client:  # api_key="…" if the server needs one
    video = client.create(
        ${JSON.stringify(prompt)},
${Object.entries(options).map(([name, value]) => `        ${name}=${inPython(value)},`).join("\n")}
    )
    client.wait(video)
    client.download(video, "clip.${options.output_type}")
`,
  javascript: (fields) =>
    `const server = ${JSON.stringify(address("./"))};
const headers = { "Content-Type": "application/json", Authorization: "Bearer …" };
const sent = await fetch(server + "v1/videos", {
    method: "POST",
    headers,
    body: JSON.stringify(${indent(JSON.stringify(fields, null, 4))}),
});
let video = await sent.json();
while (["queued", "in_progress"].includes(video.status)) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    video = await (await fetch(server + "v1/videos/" + video.id, { headers })).json();
}
const clip = await (await fetch(server + "v1/videos/" + video.id + "/content", { headers })).blob();
`,
};

export const snippet = (language, video) => WRITERS[language](fieldsOf(video));
