// The strip: a card for each shot, the branches, and what is stale.

import { frameUrl } from "./api.js";
import { framesOf } from "./film.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

const STATUS = {
  waiting: "waiting",
  queued: "queued",
  generating: "making",
  done: "done",
  stale: "stale",
  failed: "failed",
};
const WHY = {
  context: "an earlier shot has changed",
  caption: "its caption has changed",
  global_caption: "the story has changed",
  seed: "its seed has changed",
};

/** Why a shot is stale, in words. */
export function staleText(shot) {
  return shot.stale_reasons.map((reason) => WHY[reason]).join(", ");
}

export function stripView(app) {
  const { director } = app;
  const { story } = director;
  const numStale = story.shots.filter((shot) => shot.status === "stale").length;
  const numForeign = story.shots.filter(({ takes, take_id: id }) => takes.some((t) => t.take_id === id && !t.weights_match)).length;
  return h(
    "section",
    { class: "strip", "aria-label": "Shots" },
    h(
      "div",
      { class: "strip-head" },
      branchesView(director),
      h("span", { class: "grow" }),
      numForeign > 0 && h("p", { key: "foreign", class: "stale-note" }, `${numForeign} ${numForeign === 1 ? "shot" : "shots"} made with other weights than are loaded now`),
      numStale > 0 &&
        h(
          "p",
          { class: "stale-note" },
          `${numStale} ${numStale === 1 ? "shot" : "shots"} made from what has changed since`,
          h("button", { class: "small", onclick: () => director.remakeStale() }, icon("again"), "Make again"),
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

function branchesView(director) {
  const { story } = director;
  const at = story.shots.indexOf(director.shot);
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
            branch.branch_id !== story.branch_id && director.travel("switch_branch", { branch_id: branch.branch_id }),
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
        title: `A branch with the film up to shot ${at + 1} (B)`,
        onclick: () => director.travel("branch", { shot_id: director.shot.shot_id }),
      },
      icon("branch"),
      h("span", null, at < 0 ? "Branch" : `Branch after shot ${at + 1}`),
    ),
  );
}

function cardView(app, shot, index) {
  const { director, model } = app;
  const { story } = director;
  const making = story.making?.shot_id === shot.shot_id ? story.making : null;
  const take = shot.takes.find((candidate) => candidate.take_id === shot.take_id);
  const isHere = director.playingSegment?.shotId === shot.shot_id;
  const numChunks = making?.num_chunks ?? take?.num_chunks ?? shot.num_chunks ?? model.num_chunks;
  const length = (framesOf(numChunks, model) / model.fps).toFixed(1);
  const status = STATUS[shot.status];
  const seed = shot.seed ?? take?.seed ?? null;
  const facts = [`${length} s`, shot.takes.length > 1 && `${shot.takes.length} takes`].filter(Boolean).join(" · ");
  return h(
    "li",
    { key: shot.shot_id, class: "card", "data-status": shot.status, "data-here": isHere, "data-chosen": director.shot === shot },
    h(
      "button",
      {
        class: "face",
        "aria-label": `Shot ${index + 1}, ${status}, ${length} s: ${shot.caption}`,
        "aria-current": isHere ? "true" : null,
        onclick: () => choose(app, shot),
      },
      h(
        "span",
        { class: "thumb" },
        take
          ? h("img", { src: frameUrl(director.storyId, { take_id: take.take_id, frame_index: Math.floor(take.num_frames / 2) }), alt: "", width: 160, height: 96 })
          : h("span", { class: "blank" }, index + 1),
        making && progressView(director, making),
      ),
      h("span", { class: "caption" }, shot.caption),
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

function progressView(director, making) {
  const made = director.player.numReceived(making.take_id);
  const chunks = Array.from({ length: making.num_chunks }, (_, index) => h("span", { "data-made": index < made }));
  return h("span", { class: "chunks", role: "progressbar", "aria-label": "Chunks made", "aria-valuemin": 0, "aria-valuemax": making.num_chunks, "aria-valuenow": made }, chunks);
}

function choose(app, shot) {
  const { director } = app;
  director.chosenShotId = shot.shot_id;
  const segment = director.player.segments.find((candidate) => candidate.shotId === shot.shot_id);
  if (segment) director.player.seek(segment.start);
  app.redraw();
}

let shotInSight = null;

/** Scrolls the strip to the shot that plays, when that has changed; never the page. */
export function keepInSight(app) {
  const shotId = app.director.playingSegment?.shotId;
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
