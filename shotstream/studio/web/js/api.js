// What the server is asked over HTTP. A failure is an Error whose message is one line for the person.

/** Where the studio begins: this module lies in its js/, under whatever path a proxy shows it. */
const ROOT = new URL("..", import.meta.url);

/** The address of a path in the studio, whichever page asks. */
export function urlOf(path) {
  return new URL(path, ROOT).href;
}

/** The answer's JSON; null when it is empty. */
export async function ask(path, method = "GET", body = undefined) {
  const answer = await reach(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return answer.status === 204 ? null : answer.json();
}

/** A new story from the text of a story file. */
export async function importStory(file) {
  const headers = { "content-type": "application/octet-stream" };
  return (await reach("api/stories/import", { method: "POST", headers, body: file })).json();
}

/** A file's bytes. */
export async function fetchBytes(path) {
  return (await reach(path, {})).arrayBuffer();
}

/** Saves what a path gives under a name; nothing is saved when the server refuses. */
export async function download(path, name) {
  const url = URL.createObjectURL(await (await reach(path, {})).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Where the lossless picture of a frame is. */
export function frameUrl(storyId, place) {
  return urlOf(`api/stories/${storyId}/takes/${place.take_id}/frames/${place.frame_index}.png`);
}

async function reach(path, options) {
  let answer;
  try {
    answer = await fetch(urlOf(path), options);
  } catch {
    throw new Error("the server does not answer");
  }
  if (answer.ok) return answer;
  let message = `the server answers ${answer.status}`;
  try {
    message = (await answer.json()).message ?? message;
  } catch {
    // No Problem in the body: the status has to do.
  }
  throw new Error(message);
}
