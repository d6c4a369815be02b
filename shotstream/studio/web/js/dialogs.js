// Dialogs: exports and the list of keyboard shortcuts.

import { download } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { KEYS } from "./keys.js";

const FILM = [
  ["film.mp4", "Film", "MP4 with a chapter for each shot"],
  ["film.gif", "Animation", "GIF, looping"],
  ["storyboard.png", "Storyboard", "PNG with a picture of each shot"],
  ["film.srt", "Subtitles", "SRT"],
  ["film.vtt", "Subtitles for the web", "WebVTT"],
  ["edit.zip", "For an editing program", "ZIP: a clip of each shot, with EDL, FCPXML and OpenTimelineIO"],
  ["story.yaml", "Story", "YAML with captions, lengths and seeds"],
  ["replay.json", "Replay", "reproduces every frame with shotstream generate"],
];

export function dialogView(app) {
  if (app.dialog === "export") return sheet(app, "Export", exportView(app));
  if (app.dialog === "help") return sheet(app, "Keyboard shortcuts", keysView());
  return null;
}

function sheet(app, title, content) {
  const close = () => {
    app.dialog = null;
    app.redraw();
  };
  return h(
    "dialog",
    {
      key: title,
      class: "sheet",
      "aria-label": title,
      onclose: close,
      onclick: (event) => event.target === event.currentTarget && event.currentTarget.close(),
      // Opened when it is in the document: that brings the focus in, and Escape closes it.
      ref: (dialog) => queueMicrotask(() => dialog.isConnected && !dialog.open && dialog.showModal()),
    },
    h(
      "div",
      { class: "inside" },
      h(
        "header",
        null,
        h("h2", null, title),
        h("span", { class: "grow" }),
        h("button", { class: "quiet square", "aria-label": "Close", onclick: close }, icon("close")),
      ),
      content,
    ),
  );
}

function exportView(app) {
  const { client } = app;
  const { story, storyId } = client;
  const name = story.title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "film";
  const shots = story.shots.filter((shot) => shot.take_id);
  const row = (path, file, label, about) =>
    h(
      "li",
      { key: file },
      h(
        "button",
        { class: "file", "data-file": file, onclick: () => fetchFile(app, `api/stories/${storyId}/export/${path}`, file) },
        h("span", { class: "what" }, label, h("small", null, about)),
        app.fetching === file ? h("span", { class: "spin", "aria-label": "In progress" }) : icon("save"),
      ),
    );
  return [
    app.exportError && h("p", { class: "why", role: "alert" }, app.exportError),
    h("ul", { class: "files" }, FILM.map(([path, label, about]) => row(path, `${name}.${path.replace(/^film\.|^story\./, "")}`, label, about))),
    shots.length > 0 && h("h3", null, "Single shots"),
    h(
      "ul",
      { class: "files shots" },
      shots.map((shot, index) => {
        // The name by which the timelines of edit.zip call it.
        const file = `shot_${String(index + 1).padStart(3, "0")}.mp4`;
        return row(`shots/${shot.shot_id}.mp4`, file, `Shot ${story.shots.indexOf(shot) + 1}`, shot.caption);
      }),
    ),
  ];
}

async function fetchFile(app, path, file) {
  Object.assign(app, { fetching: file, exportError: null });
  app.redraw();
  try {
    await download(path, file);
  } catch (error) {
    app.exportError = error.message;
  }
  app.fetching = null;
  app.redraw();
}

function keysView() {
  return h(
    "dl",
    { class: "keys" },
    KEYS.map(([key, what]) => h("div", { key }, h("dt", null, h("kbd", null, key)), h("dd", null, what))),
    h("div", null, h("dt", null, h("kbd", null, "Enter")), h("dd", null, "In the caption: add the shot to the queue")),
    h("div", null, h("dt", null, h("kbd", null, "Shift+Enter")), h("dd", null, "In the caption: cut to the shot")),
    h("div", null, h("dt", null, h("kbd", null, "Alt+Enter")), h("dd", null, "In the caption: steer the shot that is being generated")),
    h("div", null, h("dt", null, h("kbd", null, "@")), h("dd", null, "In the caption: name a picture of the cast")),
  );
}
