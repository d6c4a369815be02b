// The view of an open story: all its parts.

import { dropProps } from "./cast.js";
import { composerView } from "./composer.js";
import { dialogView } from "./dialogs.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { inspectorView } from "./inspector.js";
import { memoryView } from "./memory.js";
import { movePlayhead, stageView, transportView } from "./stage.js";
import { stripView } from "./strip.js";

const STATES = {
  generating: "generating",
  ahead: "buffered",
  idle: "idle",
  paused: "paused",
  full: "disk full",
};

export function studioView(app) {
  const { client } = app;
  const { story } = client;
  return h(
    "div",
    { key: client.storyId, class: "studio", "data-connected": client.isConnected, ...(story ? dropProps(app) : {}) },
    barView(app),
    h("main", { class: "centre" }, stageView(app), story && transportView(app), story && composerView(app)),
    story && memoryView(app),
    story && inspectorView(app),
    story && stripView(app),
    story && dialogView(app),
  );
}

/** Updates what changes with every frame. */
export function tick(app) {
  movePlayhead(app);
}

function barView(app) {
  const { client } = app;
  const { story } = client;
  const button = (name, label, does, props = {}) =>
    h("button", { class: "quiet square", "aria-label": label, title: label, onclick: does, ...props }, icon(name));
  const open = (dialog) => () => {
    Object.assign(app, { dialog, exportError: null });
    app.redraw();
  };
  return h(
    "header",
    { class: "bar" },
    h("a", { class: "mark", href: "#", "aria-label": "All stories", title: "All stories" }, h("span", { class: "logo" })),
    story &&
      h("input", {
        key: `title ${story.title}`,
        class: "title",
        "aria-label": "Title",
        maxlength: 200,
        ref: (node) => {
          node.value = story.title;
        },
        onkeydown: (event) => event.key === "Enter" && event.target.blur(),
        onchange: async (event) => {
          const { target } = event;
          const title = target.value.trim();
          if (!title || !(await client.call("edit_story", { title }))) target.value = story.title;
        },
      }),
    h("span", { class: "grow" }),
    story && telemetryView(app),
    story && button("undo", story.undo ? `Undo: ${story.undo} (Z)` : "Nothing to undo", () => client.travel("undo"), { disabled: !story.undo, "data-act": "undo" }),
    story && button("redo", story.redo ? `Redo: ${story.redo} (Shift+Z)` : "Nothing to redo", () => client.travel("redo"), { disabled: !story.redo, "data-act": "redo" }),
    story && button("help", "Keyboard shortcuts (?)", open("help"), { "data-act": "help" }),
    themeButton(app),
    story &&
      h(
        "button",
        { class: "export", disabled: !story.num_frames, onclick: open("export"), title: "Export the film (E)" },
        icon("save"),
        h("span", null, "Export"),
      ),
  );
}

/** The button of the theme: light, dark, or the system's. */
export function themeButton(app) {
  const root = document.documentElement;
  const next = { auto: "light", light: "dark", dark: "auto" }[root.dataset.theme];
  const label = `Theme: ${root.dataset.theme}; change to ${next}`;
  return h(
    "button",
    {
      class: "quiet square",
      "aria-label": label,
      title: label,
      onclick: () => {
        root.dataset.theme = next;
        localStorage.setItem("theme", next);
        app.redraw();
      },
    },
    icon("theme"),
  );
}

function telemetryView(app) {
  const { client } = app;
  const { telemetry, story } = client;
  const waiting = story.shots.filter((shot) => shot.status === "queued").length;
  const seconds = client.cutS ?? client.pictureS;
  const facts = [
    ["state", client.isConnected ? STATES[telemetry?.state] ?? "open" : "offline"],
    telemetry && ["frames generated per second", `${Math.round(telemetry.fps)} fps`],
    seconds !== null && ["time from the prompt to the first frame", `${Math.round(seconds * 1000)} ms`],
    ["shots in the queue", `${waiting} queued`],
    telemetry?.num_generating > 1 && ["chunks of other stories that are generated first", `${telemetry.queue_position} ahead`],
    telemetry?.num_viewers > 1 && ["viewers", `${telemetry.num_viewers} viewers`],
  ].filter(Boolean);
  return h(
    "dl",
    { class: "telemetry", "data-state": telemetry?.state ?? "idle" },
    facts.map(([name, value]) => h("div", { key: name, title: name }, h("dt", { class: "unseen" }, name), h("dd", null, value))),
  );
}
