// Keyboard shortcuts, in one table: key, label, action.

import { focusComposer } from "./composer.js";
import { steerOrAsk } from "./steer.js";

const isFree = ({ player }) => player.numFrames > 0;

export const KEYS = [
  ["Space", "Play or pause", (d) => (d.player.isPlaying ? d.player.pause() : d.player.play())],
  ["C", "Cut to the next shot now", (d, app) => cutOrAsk(d, app)],
  ["T", "Steer the shot that is being generated", (d, app) => steerOrAsk(d, app)],
  ["S", "Stop generating", (d) => d.call("stop")],
  ["N", "Write the next shot", () => focusComposer()],
  ["R", "Another take of the shot", (d) => d.shot?.take_id && d.retake(d.shot.shot_id)],
  ["P", "Pin the frame in the memory", (d) => d.pinHere()],
  ["A", "Autoplay on or off", (d) => d.call("set_autoplay", { on: !d.story.autoplay })],
  ["B", "Branch after this shot", (d) => d.shot && d.travel("branch", { shot_id: d.shot.shot_id })],
  ["Z", "Undo", (d) => d.travel("undo")],
  ["Shift+Z", "Redo", (d) => d.travel("redo")],
  ["←", "Previous frame", (d) => isFree(d) && d.step(-1)],
  ["→", "Next frame", (d) => isFree(d) && d.step(1)],
  ["Shift+←", "Previous shot", (d) => d.stepShot(-1)],
  ["Shift+→", "Next shot", (d) => d.stepShot(1)],
  ["E", "Export the film", (_, app) => show(app, "export")],
  ["?", "This list", (_, app) => show(app, "help")],
];

/** Cuts to the composer's shot or the next one; without either, focuses the composer. */
export async function cutOrAsk(client, app) {
  const caption = client.draft.caption.trim();
  if (caption) client.draft = { caption: "", advice: null };
  app.redraw();
  const isDone = await client.cut(caption || null);
  if (isDone) return;
  if (caption && !client.draft.caption) client.draft.caption = caption;
  app.redraw();
  focusComposer();
}

function show(app, dialog) {
  app.dialog = dialog;
  app.redraw();
}

/** Handles a key, unless it is typed into a field. */
export function onKey(event, app) {
  const { client } = app;
  if (!client?.story) return;
  if (app.dialog) {
    // Also before it is open, when the browser does not yet close it by itself.
    if (event.key === "Escape") show(app, null);
    return;
  }
  const isTyping = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Escape") {
    client.chosenShotId = null;
    app.redraw();
    return;
  }
  const isCommand = event.ctrlKey || event.metaKey;
  if (event.altKey || (isCommand && event.key.toLowerCase() !== "z")) return;
  // Space and Enter on a button are the button's.
  if (event.key === " " && event.target.closest?.("button, a, summary")) return;
  const named = { " ": "Space", ArrowLeft: "←", ArrowRight: "→" }[event.key] ?? event.key.toUpperCase();
  if (event.target.closest?.("[role=slider]") && (named === "←" || named === "→")) return;
  const name = (event.shiftKey && named !== "?" ? "Shift+" : "") + named;
  const found = KEYS.find(([key]) => key === name);
  if (!found) return;
  event.preventDefault();
  found[2](client, app);
}
