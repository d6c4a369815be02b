// The composer: a caption for the next shot, as free text or composed from the model's vocabulary.

import { request } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { begunCitation, citationProps, citationsView, namesFor, onCitationKey } from "./citations.js";
import { cutOrAsk } from "./keys.js";
import { steerOrAsk, steerView, steeredSoFar, toldOf } from "./steer.js";
import { castOf, everyone, inventShot, readChoices, sayChoices } from "./words.js";

const ADVICE_MS = 250;
let adviceTimer = 0;

/** Focuses the caption field. */
export function focusComposer() {
  document.getElementById("next-shot")?.focus();
}

export function composerView(app) {
  const { client, suggestions } = app;
  const { draft } = client;
  const queue = async () => {
    const caption = draft.caption.trim();
    if (caption && (await client.addShot(caption))) write(app, "");
  };
  const names = namesFor(client.citing, client.story.cast);
  const choose = (entry) => insertName(app, entry);
  const onkeydown = (event) => {
    if (event.isComposing) return;
    if (onCitationKey(event, client, names, choose)) app.redraw();
    else if (event.key === "Enter") {
      event.preventDefault();
      if (event.altKey) steerOrAsk(client, app);
      else if (event.shiftKey || event.ctrlKey || event.metaKey) cutOrAsk(client, app);
      else queue();
    }
  };
  const oninput = ({ target }) => {
    client.citing = begunCitation(target.value, target.selectionStart);
    write(app, target.value);
  };
  const isEmpty = !draft.caption.trim();
  return h(
    "section",
    { class: "composer", "aria-label": "The next shot" },
    h(
      "div",
      { class: "line-of-text" },
      h("textarea", {
        id: "next-shot",
        rows: 2,
        placeholder: "What happens next?",
        "aria-label": "What happens in the next shot",
        "aria-describedby": "advice",
        maxlength: app.limits.caption_chars,
        value: draft.caption,
        ...citationProps(client, names),
        oninput,
        onkeydown,
        onblur: () => {
          client.citing = null;
          app.redraw();
        },
      }),
      suggestions.species.length > 0 &&
        h(
          "button",
          {
            class: "quiet square",
            title: "Suggest a shot",
            "aria-label": "Suggest a shot",
            onclick: () => {
              const before = readChoices(client.shot?.caption ?? "", suggestions);
              write(app, inventShot(client.story.global_caption, suggestions, before));
            },
          },
          icon("dice"),
        ),
    ),
    h(
      "div",
      { class: "row" },
      suggestions.species.length > 0 && choicesView(app),
      h("span", { class: "grow" }),
      steerView(app),
      h("button", { class: "queue", disabled: isEmpty, onclick: queue, title: "Add the shot at the end (Enter)" }, icon("plus"), "Queue"),
      h(
        "button",
        { class: "primary cut", onclick: () => cutOrAsk(client, app), title: "End the playing shot with this chunk, and start the next shot (C)" },
        icon("cut"),
        "Cut",
      ),
    ),
    citationsView(client, names, choose),
    h("p", { id: "advice", class: "advice", "aria-live": "polite" }, adviceView(app)),
  );
}

function choicesView(app) {
  const { suggestions, client } = app;
  const chosen = readChoices(client.draft.caption, suggestions);
  const cast = castOf(client.story.global_caption, suggestions);
  const both = cast.length > 1 ? [cast.slice(0, 2).join(" + ")] : [];
  const others = everyone(suggestions).filter((name) => !cast.includes(name));
  const who = [...cast, ...both, ...(chosen.who && ![...cast, ...both, ...others].includes(chosen.who) ? [chosen.who] : [])];
  const change = (name, value) => {
    const story = readChoices(client.story.global_caption, suggestions);
    const filled = {
      ...chosen,
      who: chosen.who || cast[0] || others[0],
      place: chosen.place || story.place,
      time: chosen.time || story.time,
      [name]: value,
    };
    write(app, sayChoices(filled));
  };
  const select = (name, label, groups) =>
    h(
      "select",
      { key: name, class: "choice", "aria-label": label, value: chosen[name], "data-set": Boolean(chosen[name]), onchange: (event) => change(name, event.target.value) },
      h("option", { value: "" }, label),
      groups,
    );
  const options = (values) => values.map((value) => h("option", { value }, value));
  return h(
    "div",
    { class: "choices", role: "group", "aria-label": "Words that the model understands" },
    select("framing", "Framing", options(suggestions.framings)),
    select("who", "Who", [
      h("optgroup", { label: "In this story" }, options(who)),
      h("optgroup", { label: "Others" }, options(others)),
    ]),
    select("action", "Action", options(suggestions.actions)),
    select("place", "Place", options(suggestions.places)),
    select("time", "Time", options(suggestions.times)),
    select("camera", "Camera", options(suggestions.cameras)),
  );
}

/** Sets the composer's caption, and lets the server check it. */
export function write(app, caption) {
  const { client } = app;
  client.draft.caption = caption;
  clearTimeout(adviceTimer);
  if (!caption.trim()) client.draft.advice = null;
  else adviceTimer = setTimeout(() => advise(app, caption), ADVICE_MS);
  app.redraw();
}

async function advise(app, caption) {
  const { client } = app;
  const { story } = client;
  if (namesFor(client.citing, story.cast).length) return; // Half a name is no mistake yet.
  const references = story.cast.map(({ reference_id, caption: shown }) => ({ reference_id, caption: shown }));
  const body = { global_caption: story.global_caption, caption, references, ...storySoFar(story) };
  const check = (more) => request("api/captions/check", "POST", { ...body, ...more });
  const running = steeredSoFar(story);
  try {
    const [advice, steered] = await Promise.all([check({}), running && check(running)]);
    if (client.draft.caption === caption) client.draft.advice = { ...advice, steered, shot: story.making?.shot_index };
  } catch {
    return; // Advice is a courtesy; what is wrong will be said when the shot is queued.
  }
  app.redraw();
}

/** What the shots so far say and chose: a caption may name who was named before. */
function storySoFar(story) {
  const [first] = story.shots;
  const take = first?.takes.find((candidate) => candidate.take_id === first.take_id);
  const seed = take?.seed ?? (story.making?.shot_index === 0 ? story.making.seed : null);
  return { earlier: story.shots.map(toldOf), seed };
}

/** Puts a name of the cast in the place of what was begun at the caret. */
function insertName(app, entry) {
  const { client } = app;
  const field = document.getElementById("next-shot");
  const { from } = client.citing;
  const after = field.value.slice(field.selectionStart);
  const before = `${field.value.slice(0, from)}@${entry.reference_id}${/^[\s.,;:!?]/.test(after) ? "" : " "}`;
  field.value = before + after;
  field.setSelectionRange(before.length, before.length);
  client.citing = null;
  write(app, field.value);
}

/** The lines under the composer: the caption as a new shot, and as one that the running shot turns to. */
function adviceView({ client }) {
  const { advice } = client.draft;
  if (!advice) return "";
  const { steered, shot } = advice;
  const isOther = steered && client.story.making && adviceKey(steered) !== adviceKey(advice);
  return [adviceText(advice), isOther && h("span", { class: "steered" }, `Steering shot ${shot + 1}: `, adviceText(steered))];
}

function adviceKey({ understood, unknown_words, warnings }) {
  return JSON.stringify([understood, unknown_words, warnings]);
}

/** What is understood of a caption, and in bold what is not. */
function adviceText(advice) {
  const unknown = advice.unknown_words.join(", ");
  if (advice.understood === null) {
    const told = unknown ? `The model does not know: ${unknown}.` : advice.warnings[0];
    return told && h("strong", null, told);
  }
  return [
    advice.understood,
    unknown && h("strong", null, ` Not in this world: ${unknown}.`),
    advice.warnings.map((warning) => h("strong", null, ` ${warning[0].toUpperCase()}${warning.slice(1)}.`)),
  ];
}
