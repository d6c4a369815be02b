// The memory view: the references, and the frames of earlier shots, that condition the current or the next shot.

import { frameUrl, pictureUrl } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

export function memoryView(app) {
  const { client } = app;
  const { story, storyId } = client;
  const numbers = new Map(story.shots.map((shot, index) => [shot.shot_id, index + 1]));
  const next = story.shots.findIndex((shot) => !shot.take_id);
  const target = story.making
    ? `what shot ${story.making.shot_index + 1} remembers`
    : `what shot ${(next < 0 ? story.shots.length : next) + 1} will remember`;
  const here = client.playingSegment?.takeId;
  const references = counted(story.memory.filter((frame) => frame.reference_id)).map(([frame, count]) =>
    h(
      "li",
      { key: `@${frame.reference_id}`, "data-reference": true },
      frame.picture_id && h("img", { src: pictureUrl(storyId, frame.picture_id), alt: `The picture of @${frame.reference_id}`, loading: "lazy" }),
      h("span", { class: "of" }, `@${frame.reference_id}`, count > 1 && h("small", null, ` × ${count}`)),
    ),
  );
  const frames = story.memory.filter((frame) => frame.take_id).map((frame, index) => {
    const number = numbers.get(frame.shot_id);
    const isPinned = frame.pin_id !== null;
    const label = isPinned ? `Unpin the frame of shot ${number}` : `Pin this frame of shot ${number}`;
    return h(
      "li",
      { key: `${frame.take_id}.${frame.frame_index}.${index}`, "data-pinned": isPinned, "data-here": frame.take_id === here },
      h("img", { src: frameUrl(storyId, frame), alt: `Shot ${number}, frame ${frame.frame_index + 1}`, width: 80, height: 48, loading: "lazy" }),
      h("span", { class: "of" }, `shot ${number}`, h("small", null, ` ${frame.frame_index + 1}`)),
      story.max_pins > 0 &&
        h(
          "button",
          {
            class: "pin",
            "aria-label": label,
            title: label,
            "aria-pressed": String(isPinned),
            onclick: () =>
              isPinned
                ? client.call("unpin", { pin_id: frame.pin_id })
                : client.call("pin", { frame: { take_id: frame.take_id, frame_index: frame.frame_index } }),
          },
          icon("pin"),
        ),
    );
  });
  const empty = Math.max(0, app.model.context_frames - story.memory.length);
  return h(
    "aside",
    { class: "memory", "aria-label": "Memory" },
    h("h2", null, "Memory"),
    h("p", { class: "hint" }, story.memory.length ? target : "the first shot has nothing to remember"),
    h(
      "ol",
      { class: "film" },
      references,
      frames,
      Array.from({ length: empty }, (_, index) => h("li", { key: `empty ${index}`, class: "empty", "aria-hidden": "true" })),
    ),
  );
}

/** Each reference once, with the number of its places: in a first shot, references share all of them. */
function counted(references) {
  const counts = new Map();
  for (const { reference_id: id } of references) counts.set(id, (counts.get(id) ?? 0) + 1);
  return [...counts].map(([id, count]) => [references.find((one) => one.reference_id === id), count]);
}
