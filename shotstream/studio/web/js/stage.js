// The video and its controls: play, pause, scrub, stop, pin.

import { chunkOf, clock } from "./film.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

export function stageView(app) {
  const { client, model } = app;
  const { player } = client;
  return h(
    "section",
    { class: "stage", "aria-label": "Stage", ref: (stage) => fit(stage, model) },
    h("div", { class: "screen" }, player.video, overlayView(app)),
  );
}

/** Scales the video by a whole number of device pixels; a video that is too large is made to fit. */
function fit(stage, model) {
  const place = () => {
    const ratio = window.devicePixelRatio;
    const times = Math.min((stage.clientWidth * ratio) / model.width_px, (stage.clientHeight * ratio) / model.height_px);
    const scale = (times >= 1 ? Math.floor(times) : times) / ratio;
    stage.style.setProperty("--picture-width", `${model.width_px * scale}px`);
    stage.style.setProperty("--picture-height", `${model.height_px * scale}px`);
    stage.dataset.pixelated = String(model.family === "theatre" && times >= 1);
  };
  new ResizeObserver(place).observe(stage);
}

function overlayView(app) {
  const { client } = app;
  const { player, story } = client;
  if (!client.isConnected && !player.numFrames) return h("p", { class: "overlay" }, "Opening the story");
  if (story && player.numFrames === 0) {
    const next = story.shots[0];
    if (!next) return h("p", { class: "overlay" }, "Write the first shot to start the film");
    if (next.status === "failed") return h("p", { class: "overlay" }, next.failure);
    if (next.status === "waiting") return makeButton(client, next, 1);
    return h("p", { class: "overlay" }, "Generating the first shot");
  }
  if (story && player.isAtEnd) {
    const at = story.shots.findIndex((shot) => shot.status === "waiting");
    if (at >= 0) return makeButton(client, story.shots[at], at + 1);
  }
  return null;
}

function makeButton(client, shot, number) {
  return h(
    "p",
    { class: "overlay" },
    h("button", { class: "primary", onclick: () => client.make(shot.shot_id) }, icon("play"), `Generate shot ${number}`),
  );
}

export function transportView(app) {
  const { client, model } = app;
  const { player, story } = client;
  const { isPlaying, isAtEnd } = player;
  const label = isPlaying ? "Pause" : isAtEnd && player.numFrames ? "Play again" : "Play";
  return h(
    "div",
    { class: "transport", role: "toolbar", "aria-label": "Playback" },
    h(
      "button",
      {
        class: "round play",
        "aria-label": label,
        title: `${label} (Space)`,
        disabled: !player.numFrames,
        onclick: () => (isPlaying ? player.pause() : player.play()),
      },
      icon(isPlaying ? "pause" : label === "Play" ? "play" : "again"),
    ),
    h("span", { class: "time", id: "time" }, clock(player.frame, model.fps)),
    h("div", { class: "way" }, readoutView(app), scrubberView(app)),
    h("span", { class: "time total" }, clock(player.numFrames, model.fps)),
    h(
      "button",
      { class: "quiet", disabled: !story.making, onclick: () => client.call("stop"), title: "End the shot that is being generated, and generate no more (S)" },
      icon("stop"),
      h("span", null, "Stop"),
    ),
    story.max_pins > 0 &&
      h(
        "button",
        { class: "quiet", disabled: !player.place, onclick: () => client.pinHere(), title: "Keep this frame in the memory of all later shots (P)" },
        icon("pin"),
        h("span", null, "Pin"),
      ),
    h(
      "label",
      { class: "switch", title: "Generate the next shots automatically (A)" },
      h("input", {
        type: "checkbox",
        role: "switch",
        checked: story.autoplay,
        onchange: (event) => client.call("set_autoplay", { on: event.target.checked }),
      }),
      h("span", { class: "track" }),
      "Autoplay",
    ),
  );
}

/** The shot and chunk that play, and those that are being generated. */
function readoutView(app) {
  const { client } = app;
  const { making } = client.story;
  const made = making ? client.player.numReceived(making.take_id) : 0;
  return h(
    "p",
    { class: "readout" },
    h("span", { id: "where" }, whereText(app)),
    making &&
      h(
        "span",
        { key: "making", class: "making" },
        `generating shot ${making.shot_index + 1}: ${Math.min(made + 1, making.num_chunks)} of ${making.num_chunks}`,
      ),
  );
}

function whereText({ client, model }) {
  const { player, playingSegment: segment } = client;
  if (!segment) return "no frames yet";
  const chunk = chunkOf(player.frame - segment.start, model) + 1;
  return `shot ${segment.shotIndex + 1}, chunk ${chunk} of ${chunkOf(segment.length - 1, model) + 1}`;
}

function scrubberView(app) {
  const { client, model } = app;
  const { player } = client;
  const total = player.numFrames;
  const seekTo = (event) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    player.seek(Math.floor(((event.clientX - left) / width) * total));
  };
  const onkeydown = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -model.fps, PageDown: model.fps, Home: -total, End: total };
    if (!(event.key in steps) || event.shiftKey) return;
    event.preventDefault();
    client.step(steps[event.key]);
  };
  return h(
    "div",
    {
      class: "scrubber",
      id: "scrubber",
      role: "slider",
      tabindex: 0,
      "aria-label": "Position in the film",
      "aria-valuemin": 0,
      "aria-valuemax": Math.max(0, total - 1),
      "aria-valuenow": player.frame,
      "aria-valuetext": `${whereText(app)}, ${clock(player.frame, model.fps)}`,
      style: { "--at": total ? String((player.frame + 0.5) / total) : "0" },
      onkeydown,
      onpointerdown: (event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        seekTo(event);
      },
      onpointermove: (event) => event.currentTarget.hasPointerCapture(event.pointerId) && seekTo(event),
    },
    player.segments.map((segment) =>
      h(
        "span",
        {
          key: segment.shotId,
          class: "part",
          "data-making": segment.isMaking,
          "data-here": segment === client.playingSegment,
          style: { "--length": String(segment.length), "--made": String(segment.numFrames / segment.length) },
        },
        h("span", { class: "made" }),
      ),
    ),
    total > 0 && h("span", { key: "head", class: "head" }),
  );
}

/** Moves the playhead without a redraw. */
export function movePlayhead(app) {
  const { player } = app.client;
  const { fps } = app.model;
  const scrubber = document.getElementById("scrubber");
  const time = document.getElementById("time");
  if (!scrubber || !time) return;
  scrubber.style.setProperty("--at", String((player.frame + 0.5) / Math.max(1, player.numFrames)));
  scrubber.setAttribute("aria-valuenow", player.frame);
  scrubber.setAttribute("aria-valuetext", `${whereText(app)}, ${clock(player.frame, fps)}`);
  time.firstChild.data = clock(player.frame, fps);
  document.getElementById("where").firstChild.data = whereText(app);
}
