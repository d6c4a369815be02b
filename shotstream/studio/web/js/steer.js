// Steering: another caption for the shot that is being generated, from its next chunk on.

import { focusComposer } from "./composer.js";
import { clock } from "./film.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

/** How a shot turns, in words. */
export const TURNS = { recache: "turn now", blend: "turn slowly", keep: "only the words" };
const LABELS = { recache: "Steer", blend: "Steer slowly", keep: "Steer the words" };
const ABOUT = {
  recache: "Turn now: the shot reads what it has shown again, as if it had been told the new caption then",
  blend: "Turn slowly: over the next 4 chunks",
  keep: "Only the words: what the shot remembers of itself stays as it is",
};

/** The button and the choice of how the shot turns, beside Cut. */
export function steerView(app) {
  const { client } = app;
  const { making } = client.story;
  const shot = making ? `shot ${making.shot_index + 1}, which is being generated,` : "the shot that is being generated";
  return h(
    "span",
    { class: "steer", role: "group", "aria-label": "Steer" },
    h(
      "button",
      {
        class: "turn",
        disabled: !client.draft.caption.trim(),
        title: `Give ${shot} this caption from its next chunk on (T)`,
        onclick: () => steerOrAsk(client, app),
      },
      icon("turn"),
      LABELS[client.turn],
    ),
    h(
      "select",
      {
        class: "choice",
        "aria-label": "How the shot turns",
        title: `How the shot turns. ${ABOUT[client.turn]}`,
        value: client.turn,
        "data-set": true,
        onchange: (event) => {
          client.turn = event.target.value;
          app.redraw();
        },
      },
      Object.entries(TURNS).map(([mode, label]) => h("option", { value: mode, title: ABOUT[mode] }, label)),
    ),
  );
}

/** Steers with the composer's caption; without one, focuses the composer. */
export async function steerOrAsk(client, app) {
  const caption = client.draft.caption.trim();
  if (!caption) {
    app.say("write what the running shot turns to, then steer it");
    focusComposer();
    return;
  }
  const effect = await client.call("steer", { caption, mode: client.turn });
  if (effect) {
    if (client.draft.caption.trim() === caption) client.draft = { caption: "", advice: null };
    app.say(`shot ${effect.shot_index + 1} turns with its chunk ${effect.chunk_index + 1}, at ${clock(effect.film_frame, app.model.fps)}`);
  }
  app.redraw();
}

/** What the check of a caption is told, if it steers the shot that is being generated; null: none is. */
export function steeredSoFar(story) {
  const { making } = story;
  if (!making) return null;
  const at = story.shots.findIndex((shot) => shot.shot_id === making.shot_id);
  if (at < 0) return null;
  return { running: captionsOf(story.shots[at]), earlier: story.shots.slice(0, at).map(toldOf) };
}

/** All captions of a shot or a take, in order. */
export function captionsOf({ caption, then }) {
  return [caption, ...then.map((one) => one.caption)];
}

/** The caption of a shot, or all of them if it is steered. */
export function toldOf(shot) {
  return shot.then.length ? captionsOf(shot) : shot.caption;
}
