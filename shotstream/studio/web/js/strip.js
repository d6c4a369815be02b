// The strip: a card for each shot, the branches, and stale shots.

import { frameUrl } from "./api.js";
import { framesOf } from "./film.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { captionsOf } from "./steer.js";

const STATUS = {
  waiting: "waiting",
  queued: "queued",
  generating: "generating",
  done: "done",
  stale: "stale",
  failed: "failed",
};
const WHY = {
  context: "an earlier shot has changed",
  caption: "its caption has changed",
  global_caption: "the story has changed",
  seed: "its seed has changed",
  cast: "a picture that it sees has changed",
};

/** The text on why a shot is stale. */
export function staleText(shot) {
  return shot.stale_reasons.map((reason) => WHY[reason]).join(", ");
}

export function stripView(app) {
  const { client } = app;
  const { story } = client;
  const numStale = story.shots.filter((shot) => shot.status === "stale").length;
  const numForeign = story.shots.filter(({ takes, take_id: id }) => takes.some((t) => t.take_id === id && !t.weights_match)).length;
  return h(
    "section",
    { class: "strip", "aria-label": "Shots" },
    h(
      "div",
      { class: "strip-head" },
      branchesView(client),
      h("span", { class: "grow" }),
      numForeign > 0 && h("p", { key: "foreign", class: "stale-note" }, `${numForeign} ${numForeign === 1 ? "shot" : "shots"} generated with other weights than those loaded now`),
      numStale > 0 &&
        h(
          "p",
          { class: "stale-note" },
          numStale === 1 ? "1 shot is stale: something it depends on has changed" : `${numStale} shots are stale: something they depend on has changed`,
          h("button", { class: "small", onclick: () => client.remakeStale() }, icon("again"), "Generate again"),
        ),
    ),
    h(
      "ol",
      { class: "cards", onwheel: sideways },
      story.shots.map((shot, index) => cardView(app, shot, index)),
      story.shots.length === 0 && h("li", { key: "none", class: "no-card" }, "No shots yet"),
    ),
  );
}

function branchesView(client) {
  const { story } = client;
  const at = story.shots.indexOf(client.shot);
  return h(
    "div",
    { class: "branches", role: "group", "aria-label": "Branches" },
    story.branches.map((branch) =>
      h(
        "button",
        {
          key: branch.branch_id,
          class: "tab",
          "aria-pressed": String(branch.branch_id === story.branch_id),
          onclick: () =>
            branch.branch_id !== story.branch_id && client.travel("switch_branch", { branch_id: branch.branch_id }),
        },
        branch.name,
        h("small", null, branch.num_shots),
      ),
    ),
    h(
      "button",
      {
        key: "new",
        class: "tab new",
        disabled: at < 0,
        title: `New branch with the film up to shot ${at + 1} (B)`,
        onclick: () => client.travel("branch", { shot_id: client.shot.shot_id }),
      },
      icon("branch"),
      h("span", null, at < 0 ? "Branch" : `Branch after shot ${at + 1}`),
    ),
  );
}

function cardView(app, shot, index) {
  const { client, model } = app;
  const { story } = client;
  const making = story.making?.shot_id === shot.shot_id ? story.making : null;
  const take = shot.takes.find((candidate) => candidate.take_id === shot.take_id);
  const isHere = client.playingSegment?.shotId === shot.shot_id;
  const numChunks = making?.num_chunks ?? take?.num_chunks ?? shot.num_chunks ?? model.num_chunks;
  const length = (framesOf(numChunks, model) / model.fps).toFixed(1);
  const status = STATUS[shot.status];
  const seed = shot.seed ?? take?.seed ?? null;
  const facts = [`${length} s`, shot.takes.length > 1 && `${shot.takes.length} takes`].filter(Boolean).join(" · ");
  return h(
    "li",
    { key: shot.shot_id, class: "card", "data-status": shot.status, "data-here": isHere, "data-chosen": client.shot === shot },
    h(
      "button",
      {
        class: "face",
        "aria-label": `Shot ${index + 1}, ${status}, ${length} s: ${captionsOf(shot).join("; then: ")}`,
        "aria-current": isHere ? "true" : null,
        onclick: () => choose(app, shot),
      },
      h(
        "span",
        { class: "thumb" },
        take
          ? h("img", { src: frameUrl(client.storyId, { take_id: take.take_id, frame_index: Math.floor(take.num_frames / 2) }), alt: "", width: 160, height: 96 })
          : h("span", { class: "blank" }, index + 1),
        making && progressView(client, making),
      ),
      captionView(shot),
      h(
        "span",
        { class: "facts" },
        h("span", { class: "number" }, index + 1),
        facts,
        h("span", { class: "grow" }),
        shot.status !== "done" && h("span", { class: "badge", title: shot.failure ?? staleText(shot) }, status),
      ),
      h("span", { class: "seed", title: seed && `seed ${seed}` }, seed ? `seed ${seed}` : "seed: automatic"),
    ),
  );
}

/** The caption; of a steered shot also the last one, on a line of its own. */
function captionView(shot) {
  if (!shot.then.length) return h("span", { class: "caption" }, shot.caption);
  const more = shot.then.length > 1 ? ` (${shot.then.length})` : "";
  return h(
    "span",
    { class: "caption", "data-steered": true, title: captionsOf(shot).join("\nthen: ") },
    h("span", { class: "part" }, shot.caption),
    h("span", { class: "part later" }, `then${more}: ${shot.then.at(-1).caption}`),
  );
}

function progressView(client, making) {
  const made = client.player.numReceived(making.take_id);
  const chunks = Array.from({ length: making.num_chunks }, (_, index) => h("span", { "data-made": index < made }));
  return h("span", { class: "chunks", role: "progressbar", "aria-label": "Chunks generated", "aria-valuemin": 0, "aria-valuemax": making.num_chunks, "aria-valuenow": made }, chunks);
}

function choose(app, shot) {
  const { client } = app;
  client.chosenShotId = shot.shot_id;
  const segment = client.player.segments.find((candidate) => candidate.shotId === shot.shot_id);
  if (segment) client.player.seek(segment.start);
  app.redraw();
}

let shotInSight = null;

/** Scrolls the strip, never the page, to the playing shot when that changes. */
export function keepInSight(app) {
  const shotId = app.client.playingSegment?.shotId;
  if (shotId === shotInSight) return;
  shotInSight = shotId;
  const card = document.querySelector(".card[data-here]");
  const strip = card?.parentElement;
  if (!strip) return;
  const [left, right] = [card.offsetLeft - strip.offsetLeft, card.offsetLeft - strip.offsetLeft + card.offsetWidth];
  const { scrollLeft, clientWidth } = strip;
  if (left < scrollLeft + 40) strip.scrollTo({ left: left - 60, behavior: "smooth" });
  else if (right > scrollLeft + clientWidth - 40) strip.scrollTo({ left: right - clientWidth + 60, behavior: "smooth" });
}

function sideways(event) {
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
  event.currentTarget.scrollLeft += event.deltaY;
}
