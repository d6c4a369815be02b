// The inspector: the selected shot with its takes, and the global caption.

import { frameUrl } from "./api.js";
import { castView } from "./cast.js";
import { framesOf } from "./film.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { TURNS, captionsOf } from "./steer.js";
import { staleText } from "./strip.js";
import { inserted } from "./words.js";

export function inspectorView(app) {
  return h("aside", { class: "inspector", "aria-label": "Shot and story" }, shotView(app), storyPart(app), castView(app));
}

function shotView(app) {
  const { client, model, limits } = app;
  const { story, shot } = client;
  if (!shot) return null;
  const index = story.shots.indexOf(shot);
  const take = shot.takes.find((candidate) => candidate.take_id === shot.take_id);
  const edit = (fields) => client.call("edit_shot", { shot_id: shot.shot_id, ...fields });
  const numChunks = shot.num_chunks ?? take?.num_chunks ?? model.num_chunks;
  return h(
    "section",
    { key: shot.shot_id, class: "part", ref: (node) => holdWhileUsed(node, client, shot.shot_id) },
    h(
      "header",
      null,
      h("h2", null, `Shot ${index + 1}`),
      h("span", { class: "grow" }),
      iconButton("left", "Move left", index === 0, () => client.call("move_shot", { shot_id: shot.shot_id, index: index - 1 })),
      iconButton("right", "Move right", index === story.shots.length - 1, () => client.call("move_shot", { shot_id: shot.shot_id, index: index + 1 })),
      iconButton("bin", "Remove the shot", false, () => client.call("remove_shot", { shot_id: shot.shot_id })),
    ),
    field("Caption", {
      tag: "textarea",
      rows: 3,
      maxlength: limits.caption_chars,
      text: shot.caption,
      save: (caption) => edit({ caption }),
    }),
    shot.then.length > 0 && thenView(app, shot, edit),
    h(
      "div",
      { class: "pair" },
      h(
        "label",
        { class: "field" },
        h("span", null, "Length"),
        h(
          "select",
          { value: String(numChunks), onchange: (event) => edit({ num_chunks: Number(event.target.value) }) },
          lengths(numChunks, limits).map((number) =>
            h("option", { value: String(number) }, `${(framesOf(number, model) / model.fps).toFixed(1)} s`),
          ),
        ),
      ),
      field("Seed", {
        tag: "input",
        inputmode: "numeric",
        pattern: "[0-9]*",
        placeholder: "automatic",
        text: shot.seed ?? take?.seed ?? "",
        save: (seed) => edit({ seed }),
      }),
    ),
    shot.failure && h("p", { class: "why" }, shot.failure),
    shot.status === "stale" && h("p", { class: "why" }, `Stale: ${staleText(shot)}.`),
    take && !take.weights_match && h("p", { class: "why" }, "Generated with other weights than those loaded now."),
    actionsView(client, shot, take),
    shot.takes.length > 0 && takesView(client, shot),
  );
}

/** The captions that a shot gets while it runs; each can be taken away. */
function thenView({ model }, shot, edit) {
  const remove = (taken) => edit({ then: shot.then.filter((one) => one !== taken) });
  return h(
    "ul",
    { class: "later-captions", "aria-label": "Captions that it turns to" },
    shot.then.map((one) => {
      const at = (framesOf(one.chunk_index, model) / model.fps).toFixed(1);
      const label = `Take away: ${one.caption}`;
      return h(
        "li",
        { key: one.chunk_index },
        h("span", { class: "what" }, `then: ${one.caption}`, h("small", null, ` from ${at} s, ${TURNS[one.mode]}`)),
        iconButton("bin", label, false, () => remove(one)),
      );
    }),
  );
}

/** Keeps a shot selected while the user edits it, even when another one plays. */
function holdWhileUsed(node, client, shotId) {
  let isHeld = false;
  node.addEventListener("focusin", () => {
    if (client.chosenShotId === null) isHeld = true;
    client.chosenShotId ??= shotId;
  });
  node.addEventListener("focusout", (event) => {
    if (isHeld && !node.contains(event.relatedTarget) && client.chosenShotId === shotId) client.chosenShotId = null;
    isHeld &&= node.contains(event.relatedTarget);
  });
}

function actionsView(client, shot, take) {
  const make = (label) => h("button", { key: "make", onclick: () => client.make(shot.shot_id) }, icon("play"), label);
  return h(
    "div",
    { class: "row" },
    shot.status === "waiting" && make("Generate"),
    shot.status === "failed" && make("Try again"),
    shot.status === "stale" && make("Generate again"),
    take &&
      h(
        "button",
        { key: "retake", onclick: () => client.retake(shot.shot_id), title: "Another take with a new seed (R)" },
        icon("again"),
        "Retake",
      ),
  );
}

function takesView(client, shot) {
  return h(
    "div",
    { class: "takes", role: "group", "aria-label": "Takes" },
    shot.takes.map((take, index) =>
      h(
        "button",
        {
          key: take.take_id,
          class: "take",
          "aria-pressed": String(take.take_id === shot.take_id),
          "aria-label": `Take ${index + 1}, seed ${take.seed}`,
          title: `Take ${index + 1}, seed ${take.seed}: ${captionsOf(take).join(" / ")}`,
          onclick: () => take.take_id !== shot.take_id && client.chooseTake(shot.shot_id, take.take_id),
        },
        h("img", { src: frameUrl(client.storyId, { take_id: take.take_id, frame_index: Math.floor(take.num_frames / 2) }), alt: "", width: 80, height: 48, loading: "lazy" }),
        h("small", null, take.was_cut ? `${index + 1} cut` : `${index + 1}`),
      ),
    ),
  );
}

function storyPart(app) {
  const { client, suggestions, limits } = app;
  const { story } = client;
  const insert = (words) => client.call("edit_story", { global_caption: inserted(story.global_caption, words, suggestions) });
  return h(
    "section",
    { key: "story", class: "part" },
    h("h2", null, "Story"),
    field("Shared by all shots", {
      tag: "textarea",
      rows: 3,
      maxlength: limits.caption_chars,
      text: story.global_caption,
      save: (caption) => client.call("edit_story", { global_caption: caption }),
    }),
    suggestions.species.length > 0 &&
      h(
        "details",
        null,
        h("summary", null, "Cast and places"),
        cardsView(suggestions, insert),
      ),
  );
}

/** Cards that add characters, places and times to a caption. */
export function cardsView(suggestions, insert) {
  const group = (label, kind, cards, say) =>
    h(
      "div",
      { class: `word-cards ${kind}`, role: "group", "aria-label": label },
      cards.map(({ words, picture }) =>
        h(
          "button",
          { key: words, class: "word-card", "aria-label": `Add ${say(words)}`, onclick: () => insert(say(words)) },
          h("img", { src: picture, alt: "" }),
          h("span", null, words.replace(/^(in|on) the /, "").replace(/^(by|at) /, "")),
        ),
      ),
    );
  return [
    group("Cast", "cast", suggestions.cast, (words) => `a ${words}`),
    group("Places", "sets", suggestions.sets, (words) => words),
    group("Times of day", "sets", suggestions.skies, (words) => words),
  ];
}

/** A field that is saved on blur or Enter; Escape restores the old text. */
export function field(label, { tag, text, save, ...props }) {
  const onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      event.target.blur();
    } else if (event.key === "Escape") event.target.value = text;
  };
  const onchange = async (event) => {
    const { target } = event;
    const given = target.value.trim();
    if (given === text) return;
    if (!given || !(await save(given))) target.value = text;
  };
  // The text is set when it changes, not at every drawing: somebody may be typing.
  const keep = (node) => {
    node.value = text;
  };
  return h("label", { class: "field" }, h("span", null, label), h(tag, { key: `${label} ${text}`, ...props, ref: keep, onkeydown, onchange }));
}

function iconButton(name, label, disabled, onclick) {
  return h("button", { class: "quiet square", "aria-label": label, title: label, disabled, onclick }, icon(name));
}

function lengths(chosen, limits) {
  const usual = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30].filter((number) => number <= limits.chunks_per_shot);
  return [...new Set([...usual, chosen])].sort((one, other) => one - other);
}
