// The start page: create a story, or open one.

import { request, frameUrl, importStory } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { cardsView } from "./inspector.js";
import { themeButton } from "./studio.js";
import { firstShots, inserted, inventStory } from "./words.js";

const POSTERS = new Set(["fox-and-owl", "frog-and-rabbit", "robot-by-the-sea"]);

/** Loads the stored and the bundled stories. */
export async function loadHome(app) {
  try {
    const [stories, bundled] = await Promise.all([request("api/stories"), request("api/bundled")]);
    app.home = { stories, bundled, globalCaption: app.home?.globalCaption ?? "", isBusy: false };
  } catch (error) {
    app.say(error.message, "error");
  }
}

export function homeView(app) {
  const { home } = app;
  return h(
    "div",
    { key: "home", class: "home" },
    h("header", { class: "bar" }, h("span", { class: "mark" }, h("span", { class: "logo" }), "ShotStream"), h("span", { class: "grow" }), themeButton(app)),
    h(
      "main",
      null,
      h("h1", null, "Direct a film while it is being made."),
      home && composeView(app),
      home && h("h2", null, "Start with an example"),
      home && h("ul", { class: "posters" }, home.bundled.map((story) => bundledView(app, story))),
      home?.stories.length > 0 && h("h2", null, "Continue a story"),
      home?.stories.length > 0 && h("ul", { class: "stories" }, home.stories.map((story) => storyView(app, story))),
      home && importView(app),
    ),
  );
}

async function begin(app, body) {
  if (app.home.isBusy) return;
  app.home.isBusy = true;
  app.redraw();
  try {
    const { story_id: storyId, warnings = [] } =
      body instanceof Blob ? await importStory(body) : await request("api/stories", "POST", body);
    app.open(storyId);
    if (warnings.length) app.say(warnings.join("; "));
  } catch (error) {
    app.home.isBusy = false;
    app.say(error.message, "error");
  }
}

function composeView(app) {
  const { home, suggestions, limits } = app;
  const text = home.globalCaption;
  const knows = suggestions.species.length > 0;
  const write = (caption) => {
    home.globalCaption = caption;
    app.redraw();
  };
  const start = () => {
    // Nothing said: a story that is sure to be understood.
    const globalCaption = home.globalCaption.trim() || (knows && inventStory(suggestions));
    if (!globalCaption) return;
    const captions = knows ? firstShots(globalCaption, suggestions) : [];
    begin(app, { title: titleOf(globalCaption), global_caption: globalCaption, shots: captions.map((caption) => ({ caption })) });
  };
  return h(
    "section",
    { class: "compose", "aria-label": "A new story" },
    h("textarea", {
      rows: 2,
      placeholder: knows ? "Who is in it, where, and when? A purple fox and a yellow owl in the forest at sunset." : "Who is in it, where, and in which style?",
      "aria-label": "What the story is about",
      maxlength: limits.caption_chars,
      value: text,
      oninput: (event) => write(event.target.value),
      onkeydown: (event) => {
        if (event.key !== "Enter" || event.shiftKey) return;
        event.preventDefault();
        start();
      },
    }),
    h(
      "div",
      { class: "row" },
      knows && h("button", { class: "quiet", onclick: () => write(inventStory(suggestions)) }, icon("dice"), "Surprise me"),
      h("span", { class: "grow" }),
      h("button", { class: "primary", disabled: !(text.trim() || knows) || home.isBusy, onclick: start }, icon("play"), "Start"),
    ),
    knows &&
      h(
        "details",
        null,
        h("summary", null, "Cast and places"),
        cardsView(suggestions, (words) => write(inserted(home.globalCaption, words, suggestions))),
      ),
  );
}

function titleOf(globalCaption) {
  const text = globalCaption.replace(/^A story about /i, "").replace(/\.$/, "");
  return `${text[0].toUpperCase()}${text.slice(1)}`.slice(0, 80);
}

function bundledView(app, story) {
  return h(
    "li",
    { key: story.name },
    h(
      "button",
      { class: "poster", "data-story": story.name, onclick: () => begin(app, { bundled: story.name }) },
      POSTERS.has(story.name)
        ? h("img", { src: `posters/${story.name}.png`, alt: "", width: 320, height: 192 })
        : h("span", { class: "blank" }),
      h("span", { class: "name" }, story.title),
      h("small", null, `${story.captions.length} shots`),
    ),
  );
}

function storyView(app, story) {
  const when = new Date(story.updated_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  const remove = async () => {
    if (!confirm(`Delete “${story.title}” for good?`)) return;
    try {
      await request(`api/stories/${story.story_id}`, "DELETE");
    } catch (error) {
      app.say(error.message, "error");
    }
    await loadHome(app);
    app.redraw();
  };
  return h(
    "li",
    { key: story.story_id },
    h(
      "a",
      { class: "story", href: `#/${story.story_id}` },
      story.cover ? h("img", { src: frameUrl(story.story_id, story.cover), alt: "", width: 80, height: 48 }) : h("span", { class: "blank" }),
      h("span", { class: "what" }, story.title, h("small", null, `${story.num_shots} shots · ${(story.num_frames / app.model.fps).toFixed(0)} s · ${when}`)),
    ),
    h("button", { class: "quiet square", "aria-label": `Delete ${story.title}`, title: "Delete", onclick: remove }, icon("bin")),
  );
}

function importView(app) {
  return h(
    "p",
    { class: "import" },
    h(
      "label",
      null,
      "Open a story file",
      h("input", {
        type: "file",
        accept: ".yaml,.yml,.json,.txt",
        onchange: (event) => event.target.files[0] && begin(app, event.target.files[0]),
      }),
    ),
    h("small", null, "YAML or JSON, the same files as for shotstream generate"),
    h("span", { class: "grow" }),
    h("a", { href: "api/docs" }, "API"),
  );
}
