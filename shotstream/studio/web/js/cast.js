// The cast: pictures of the person's own that shots see, and that captions cite as @name.

import { pictureUrl, uploadPicture } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { field } from "./inspector.js";

const ROLES = { subject: "a character", place: "a place", style: "a look" };
const FOR = { all: "all shots", cited: "shots that cite it" };
const TYPES = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff";

export function castView(app) {
  const { client } = app;
  const { cast } = client.story;
  return h(
    "section",
    { key: "cast", class: "part own-cast", "aria-label": "Cast" },
    h("header", null, h("h2", null, "Cast"), h("span", { class: "grow" }), fileButton("Add a picture", "add-picture", (file) => takePicture(app, file))),
    cast.length === 0 && !client.newReference && h("p", { class: "hint" }, "Drop a picture: someone, a place, or a look that shots are to have. Captions cite it as @name."),
    h("ul", { class: "references" }, cast.map((entry) => entryView(app, entry))),
    client.isUploading && h("p", { key: "busy", class: "hint", role: "status" }, h("span", { class: "spin" }), " Reading the picture"),
    client.newReference && newView(app),
  );
}

/** A button that opens the dialog for files. */
function fileButton(label, id, take) {
  return h(
    "label",
    { key: id, class: "file-button" },
    h("input", {
      id,
      type: "file",
      accept: TYPES,
      class: "unseen",
      onchange: (event) => {
        const [file] = event.target.files;
        if (file) take(file);
        event.target.value = ""; // The same file may be chosen again.
      },
    }),
    icon("plus"),
    label,
  );
}

/** Uploads a picture; what the answer needs to become a reference is then asked for. */
export async function takePicture(app, file) {
  const { client } = app;
  const picture = await upload(app, file);
  if (!picture || app.client !== client) return;
  const name = nameOf(file.name, client.story.cast);
  client.newReference = { ...picture, reference_id: name, caption: name.replace(/[-_]+/g, " "), role: "subject", shots: "all" };
  app.redraw();
}

async function upload(app, file) {
  const { client, limits } = app;
  if (file.size > limits.picture_bytes) {
    app.say(`this file has ${Math.ceil(file.size / 2 ** 20)} MiB; a picture has at most ${limits.picture_bytes / 2 ** 20}: make it smaller`, "error");
    return null;
  }
  client.isUploading = true;
  app.redraw();
  try {
    return await uploadPicture(client.storyId, file);
  } catch (error) {
    app.say(error.message, "error");
    return null;
  } finally {
    client.isUploading = false;
    app.redraw();
  }
}

/** A name for captions from a file's name, which the cast does not have. */
export function nameOf(fileName, cast) {
  const plain = fileName.replace(/\.[^.]*$/, "").toLowerCase().replace(/[^\p{L}\p{N}_]+/gu, "-");
  const name = plain.slice(0, 32).replace(/^-+|-+$/g, "") || "picture";
  const taken = new Set(cast.map((entry) => entry.reference_id));
  let number = 1;
  while (taken.has(number === 1 ? name : `${name}-${number}`)) number += 1;
  return number === 1 ? name : `${name}-${number}`;
}

function newView(app) {
  const { client, limits } = app;
  const { newReference: draft } = client;
  const set = (name) => (event) => {
    draft[name] = event.target.value;
    app.redraw();
  };
  const end = () => {
    client.newReference = null;
    app.redraw();
    document.getElementById("add-picture")?.focus();
  };
  const add = async () => {
    const { reference_id: id, picture_id, role, shots } = draft;
    const reference = { reference_id: id.trim().replace(/^@/, ""), picture_id, caption: draft.caption.trim(), role, shots };
    if (await client.call("add_reference", { reference })) end();
  };
  const onkeydown = (event) => {
    if (event.key === "Enter" && !event.isComposing && event.target.matches("input, textarea")) {
      event.preventDefault();
      add();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      end();
    }
  };
  return h(
    "div",
    { key: draft.picture_id, class: "reference new", role: "group", "aria-label": "The new picture", onkeydown },
    h("img", { src: draft.image, alt: "As the model sees it" }),
    h("p", { class: "hint" }, "This is what the model sees."),
    draft.outside && h("p", { class: "why" }, sentence(draft.outside)),
    h(
      "label",
      { class: "field" },
      h("span", null, "Name in captions"),
      h("input", { value: draft.reference_id, maxlength: 40, spellcheck: "false", ref: focusSoon, oninput: set("reference_id") }),
    ),
    h(
      "label",
      { class: "field" },
      h("span", null, "What it shows"),
      h("textarea", { rows: 2, value: draft.caption, maxlength: limits.caption_chars, oninput: set("caption") }),
    ),
    choices(draft, (name, value) => {
      draft[name] = value;
      app.redraw();
    }),
    h(
      "div",
      { class: "row" },
      h("button", { class: "primary add", disabled: !draft.reference_id.trim() || !draft.caption.trim(), onclick: add }, "Add to the cast"),
      h("button", { class: "quiet", onclick: end }, "Cancel"),
    ),
  );
}

function focusSoon(node) {
  queueMicrotask(() => {
    node.focus();
    node.select();
  });
}

function choices(entry, change) {
  const numbers = Array.isArray(entry.shots) ? { numbers: `shots ${entry.shots.join(", ")}, and those that cite it` } : {};
  const select = (name, label, values, value) =>
    h(
      "label",
      { class: "field" },
      h("span", null, label),
      h(
        "select",
        { value, onchange: (event) => event.target.value !== "numbers" && change(name, event.target.value) },
        Object.entries(values).map(([key, text]) => h("option", { value: key }, text)),
      ),
    );
  return h(
    "div",
    { class: "pair equal" },
    select("role", "It is", ROLES, entry.role),
    select("shots", "Seen by", { ...FOR, ...numbers }, Array.isArray(entry.shots) ? "numbers" : entry.shots),
  );
}

function entryView(app, entry) {
  const { client, limits } = app;
  const { reference_id: id } = entry;
  const edit = (fields) => client.call("edit_reference", { reference_id: id, ...fields });
  const replacePicture = async (file) => {
    const picture = await upload(app, file);
    if (picture) edit({ picture_id: picture.picture_id });
  };
  return h(
    "li",
    { key: id, class: "reference", "data-missing": !entry.picture_id },
    entry.picture_id
      ? h("img", { src: pictureUrl(client.storyId, entry.picture_id), alt: `@${id}: ${entry.caption}`, loading: "lazy" })
      : h("span", { class: "blank", "aria-hidden": "true" }, "?"),
    h("div", { class: "told" }, h("strong", null, `@${id}`), h("p", null, entry.caption), h("small", null, `${ROLES[entry.role]}, ${seenBy(entry)}`)),
    h(
      "button",
      { class: "quiet square", "aria-label": `Remove @${id}`, title: `Remove @${id}`, onclick: () => client.call("remove_reference", { reference_id: id }) },
      icon("bin"),
    ),
    !entry.picture_id && h("p", { class: "why" }, `Its picture is missing${entry.file_name ? `: ${entry.file_name}` : ""}. Shots that see it cannot be made.`),
    !entry.picture_id && fileButton("Choose the picture", `picture-of-${id}`, replacePicture),
    entry.outside && h("p", { class: "why" }, sentence(entry.outside)),
    h(
      "details",
      null,
      h("summary", null, "Change"),
      field("Name in captions", { tag: "input", maxlength: 40, text: id, save: (name) => edit({ new_id: name.replace(/^@/, "") }) }),
      field("What it shows", { tag: "textarea", rows: 2, maxlength: limits.caption_chars, text: entry.caption, save: (caption) => edit({ caption }) }),
      choices(entry, (name, value) => edit({ [name]: value })),
      entry.picture_id && fileButton("Another picture", `picture-of-${id}`, replacePicture),
    ),
  );
}

function seenBy({ shots }) {
  return Array.isArray(shots) ? `seen by shots ${shots.join(", ")}` : `seen by ${FOR[shots]}`;
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

/** The handlers by which a part of the page takes a dropped picture. */
export function dropProps(app) {
  const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (event, isOver) => event.currentTarget.toggleAttribute("data-dropping", isOver);
  return {
    ondragover: (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault(); // Or the browser would open the file in the place of the page.
      mark(event, true);
    },
    ondragleave: (event) => !event.currentTarget.contains(event.relatedTarget) && mark(event, false),
    ondrop: (event) => {
      mark(event, false);
      if (!holdsFile(event)) return;
      event.preventDefault();
      const [file, ...others] = event.dataTransfer.files;
      if (file) takePicture(app, file);
      if (others.length) app.say("one picture at a time: the first one is taken");
    },
  };
}
