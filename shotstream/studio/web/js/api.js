// REST requests. A failed one throws an Error whose message is one line for the user.

/** The root URL of the studio, under any path prefix of a proxy: the parent of js/. */
const ROOT = new URL("..", import.meta.url);

/** The URL of a path in the studio. */
export function urlOf(path) {
  return new URL(path, ROOT).href;
}

/** Sends a request; the JSON of the answer, null if it is empty. */
export async function request(path, method = "GET", body = undefined) {
  const answer = await fetchChecked(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return answer.status === 204 ? null : answer.json();
}

/** Creates a story from a story file. */
export async function importStory(file) {
  const headers = { "content-type": "application/octet-stream" };
  return (await fetchChecked("api/stories/import", { method: "POST", headers, body: file })).json();
}

/** Uploads a picture for the cast of a story; its id, and the picture as the model sees it. */
export async function uploadPicture(storyId, file) {
  const headers = { "content-type": "application/octet-stream" };
  return (await fetchChecked(`api/stories/${storyId}/pictures`, { method: "POST", headers, body: file })).json();
}

/** The URL of a picture of the cast. */
export function pictureUrl(storyId, pictureId) {
  return urlOf(`api/stories/${storyId}/pictures/${pictureId}.png`);
}

/** The bytes of a file. */
export async function fetchBytes(path) {
  return (await fetchChecked(path, {})).arrayBuffer();
}

/** Downloads a file under a name; nothing is saved if the server refuses. */
export async function download(path, name) {
  const url = URL.createObjectURL(await (await fetchChecked(path, {})).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The URL of a lossless frame. */
export function frameUrl(storyId, place) {
  return urlOf(`api/stories/${storyId}/takes/${place.take_id}/frames/${place.frame_index}.png`);
}

async function fetchChecked(path, options) {
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
