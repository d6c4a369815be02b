// Captions composed from the model's vocabulary.

const PLAIN = { framing: "", who: "", action: "", place: "", time: "", camera: "" };

/** The characters that a text names, in order, each once. */
export function castOf(text, suggestions) {
  const found = new Map();
  const words = new RegExp(`\\b(${suggestions.colours.join("|")}) (${suggestions.species.join("|")})\\b`, "gi");
  if (suggestions.species.length) {
    for (const [name] of text.matchAll(words)) found.set(name.toLowerCase(), name.toLowerCase());
  }
  return [...found.values()];
}

/** All characters. */
export function everyone(suggestions) {
  return suggestions.cast.map((card) => card.words);
}

/** Parses a caption into the choices that compose it; empty where none fits. */
export function readChoices(caption, suggestions) {
  const text = caption.toLowerCase();
  const first = (phrases) => phrases.find((phrase) => text.includes(phrase)) ?? "";
  return {
    ...PLAIN,
    framing: first(suggestions.framings),
    who: castOf(text, suggestions).join(" + "),
    action: first(suggestions.actions),
    place: first(suggestions.places),
    time: first(suggestions.times),
    camera: first(suggestions.cameras),
  };
}

/** Composes a caption from choices. */
export function sayChoices({ framing, who, action, place, time, camera }) {
  const does = action || "stands still";
  const names = who ? who.split(" + ").map((name) => `the ${name} ${does}`).join(" and ") : "";
  const where = [names, place, time].filter(Boolean).join(" ");
  const start = framing ? `${framing[0].toUpperCase()}${framing.slice(1)}: ` : "";
  return where ? `${start}${where}${camera ? `, ${camera}` : ""}.` : "";
}

/** Inserts a card's words into a global caption: one place, one time, up to two characters. */
export function inserted(caption, words, suggestions) {
  const text = caption.trim().replace(/\.$/, "");
  const lower = text.toLowerCase();
  if (lower.includes(words)) return caption;
  const end = (sentence) => `${sentence[0].toUpperCase()}${sentence.slice(1)}.`;
  if (!text) return end(words);
  const group = [suggestions.places, suggestions.times].find((phrases) => phrases.includes(words));
  if (group) {
    const other = group.find((phrase) => lower.includes(phrase));
    if (!other) return end(`${text} ${words}`);
    const at = lower.indexOf(other);
    return end(text.slice(0, at) + words + text.slice(at + other.length));
  }
  const cast = castOf(text, suggestions);
  if (cast.length === 0) {
    const isWhere = [...suggestions.places, ...suggestions.times].some((phrase) => lower.startsWith(phrase));
    return end(isWhere ? `${words} ${text[0].toLowerCase()}${text.slice(1)}` : `${text} ${words}`);
  }
  const last = cast.at(-1);
  const from = lower.indexOf(last);
  if (cast.length > 1) return end(text.slice(0, from) + words.replace(/^a /, "") + text.slice(from + last.length));
  return end(`${text.slice(0, from + last.length)} and ${words}${text.slice(from + last.length)}`);
}

/** Invents a caption for the next shot. */
export function inventShot(globalCaption, suggestions, before) {
  const pick = (list) => list[Math.floor(Math.random() * list.length)] ?? "";
  const cast = castOf(globalCaption, suggestions);
  const place = suggestions.places.find((phrase) => globalCaption.includes(phrase)) ?? pick(suggestions.places);
  const time = suggestions.times.find((phrase) => globalCaption.includes(phrase)) ?? pick(suggestions.times);
  const framings = suggestions.framings.filter((framing) => framing !== before?.framing);
  const actions = suggestions.actions.filter((action) => action !== before?.action);
  const who = cast.length > 1 && Math.random() < 0.3 ? cast.slice(0, 2).join(" + ") : pick(cast.length ? cast : everyone(suggestions));
  return sayChoices({ ...PLAIN, framing: pick(framings), who, action: pick(actions), place, time });
}

/** Invents a global caption. */
export function inventStory(suggestions) {
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  const one = pick(everyone(suggestions));
  const other = pick(everyone(suggestions).filter((name) => name.split(" ").every((word) => !one.includes(word))));
  return `A story about a ${one} and a ${other} ${pick(suggestions.places)} ${pick(suggestions.times)}.`;
}

/** Invents the first three shots. */
export function firstShots(globalCaption, suggestions) {
  const cast = castOf(globalCaption, suggestions);
  const [one, other] = [cast[0] ?? everyone(suggestions)[0], cast[1] ?? cast[0] ?? everyone(suggestions)[1]];
  const place = suggestions.places.find((phrase) => globalCaption.includes(phrase)) ?? suggestions.places[0];
  const time = suggestions.times.find((phrase) => globalCaption.includes(phrase)) ?? suggestions.times[0];
  const say = (framing, who, action) => sayChoices({ ...PLAIN, framing, who, action, place, time });
  return [
    say("wide shot", one, "walks"),
    say("close-up", other, "waves"),
    say("wide shot", one === other ? one : `${one} + ${other}`, "dances"),
  ];
}
