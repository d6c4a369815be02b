// The entry point: routing, the state of the page, and when it is redrawn.

import { request } from "./api.js";
import { StoryClient } from "./story_client.js";
import { h, render } from "./dom.js";
import { homeView, loadHome } from "./home.js";
import { onKey } from "./keys.js";
import { keepInSight } from "./strip.js";
import { studioView, tick } from "./studio.js";

const LINE_MS = 7000;

const app = {
  model: null,
  limits: null,
  suggestions: null,
  home: null, // {stories, bundled, globalCaption}
  client: null,
  line: null, // {text, kind}: what the page says, one line
  dialog: null, // "export" | "help" | null
  redraw,
  say,
  open(storyId) {
    location.hash = `#/${storyId}`;
  },
};

let isDrawing = false;

/** Schedules one redraw before the next paint; in a background tab a little later. */
function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  const draw = () => {
    if (!isDrawing) return;
    isDrawing = false;
    document.title = app.client?.story ? `${app.client.story.title} · ShotStream` : "ShotStream";
    render(document.getElementById("app"), [
      app.client ? studioView(app) : homeView(app),
      lineView(app.line),
    ]);
    if (app.client?.story) keepInSight(app);
  };
  if (document.hidden) setTimeout(draw, 100);
  else requestAnimationFrame(draw);
}

let lineTimer = 0;

/** Shows a message in one line; one of kind "lost" stays until the next message. */
function say(text, kind = "notice") {
  clearTimeout(lineTimer);
  app.line = text ? { text, kind } : null;
  if (text && kind !== "lost") lineTimer = setTimeout(() => say(null), LINE_MS);
  redraw();
}

function lineView(line) {
  const label = line ? [h("span", { class: `dot ${line.kind}` }), line.text] : [];
  return h("p", { key: "line", class: "line", role: "status", "aria-live": "polite", "data-shown": Boolean(line) }, label);
}

async function route() {
  const [, storyId] = location.hash.match(/^#\/([0-9a-f]{16})$/) ?? [];
  if (app.client?.storyId === storyId && storyId) return;
  app.client?.close();
  app.client = null;
  app.dialog = null;
  if (app.line?.kind === "lost") say(null);
  if (storyId) {
    app.client = new StoryClient(storyId, app.model, {
      redraw,
      frame: () => tick(app),
      say,
      gone(why) {
        location.hash = "";
        say(why, "error");
      },
    });
  } else {
    await loadHome(app);
  }
  redraw();
}

async function begin() {
  try {
    const [{ model, limits }, suggestions] = await Promise.all([request("api/model"), request("api/suggestions")]);
    Object.assign(app, { model, limits, suggestions });
  } catch (error) {
    say(`${error.message}; trying again`, "lost");
    setTimeout(begin, 2000);
    return;
  }
  say(null);
  addEventListener("hashchange", route);
  addEventListener("keydown", (event) => onKey(event, app));
  addEventListener("pagehide", () => app.client?.remember());
  await route();
}

redraw();
begin();
