// Completion of @names in a caption: the pictures of the cast that it may cite.

import { h } from "./dom.js";
import { pictureUrl } from "./api.js";

const BEGUN = /(?:^|[^\p{L}\p{N}_.@])@([\p{L}\p{N}_-]*)$/u;

/** The name that is being written at the caret, as {from, typed, at}; null: none. `at` is the chosen option. */
export function begunCitation(text, caret) {
  const found = text.slice(0, caret).match(BEGUN);
  return found && { from: caret - found[1].length - 1, typed: found[1].toLowerCase(), at: 0 };
}

/** The references that a begun name may become. */
export function namesFor(citing, cast) {
  if (!citing) return [];
  const names = cast.filter(({ reference_id: id }) => id.toLowerCase().startsWith(citing.typed));
  return names.length === 1 && names[0].reference_id.toLowerCase() === citing.typed ? [] : names;
}

/** The list of names under a field. `choose(entry)` puts one into the text. */
export function citationsView(client, names, choose) {
  if (!names.length) return null;
  const { at } = client.citing;
  return h(
    "ul",
    { key: "citations", id: "citations", class: "citations", role: "listbox", "aria-label": "Pictures of the cast" },
    names.map((entry, index) =>
      h(
        "li",
        {
          key: entry.reference_id,
          id: `citation-${index}`,
          role: "option",
          "aria-selected": String(index === at),
          // Before the field loses the focus, and with it the list.
          onmousedown: (event) => {
            event.preventDefault();
            choose(entry);
          },
        },
        entry.picture_id ? h("img", { src: pictureUrl(client.storyId, entry.picture_id), alt: "" }) : h("span", { class: "blank" }),
        h("span", null, `@${entry.reference_id}`, h("small", null, ` ${entry.caption}`)),
      ),
    ),
  );
}

/** What a field says of the list to a screen reader. */
export function citationProps(client, names) {
  return {
    "aria-autocomplete": "list",
    "aria-controls": names.length ? "citations" : null,
    "aria-activedescendant": names.length ? `citation-${client.citing.at}` : null,
  };
}

/** Handles a key while names are offered; true: the key is spent. */
export function onCitationKey(event, client, names, choose) {
  const { citing } = client;
  if (!names.length) return false;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    citing.at = (citing.at + (event.key === "ArrowDown" ? 1 : names.length - 1)) % names.length;
  } else if (event.key === "Enter" || event.key === "Tab") choose(names[citing.at]);
  else if (event.key === "Escape") client.citing = null;
  else return false;
  event.preventDefault();
  event.stopPropagation();
  return true;
}
