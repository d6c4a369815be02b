// Captions put together from what the theatre's world understands.

const PLAIN = { framing: "", who: "", action: "", place: "", time: "", camera: "" };

/** Every (colour, species) that a text names, in order, each once. */
export function castOf(text, suggestions) {
  const found = new Map();
  const words = new RegExp(`\\b(${suggestions.colours.join("|")}) (${suggestions.species.join("|")})\\b`, "gi");
  if (suggestions.species.length) {
    for (const [name] of text.matchAll(words)) found.set(name.toLowerCase(), name.toLowerCase());
  }
  return [...found.values()];
}

/** Everyone who may appear. */
export function everyone(suggestions) {
  return suggestions.cast.map((card) => card.words);
}

/** What is said, as the choices that say it; empty where nothing fits. */
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

/** A caption that says what was chosen. */
export function sayChoices({ framing, who, action, place, time, camera }) {
  const does = action || "stands still";
  const names = who ? who.split(" + ").map((name) => `the ${name} ${does}`).join(" and ") : "";
  const where = [names, place, time].filter(Boolean).join(" ");
  const start = framing ? `${framing[0].toUpperCase()}${framing.slice(1)}: ` : "";
  return where ? `${start}${where}${camera ? `, ${camera}` : ""}.` : "";
}

/** A story's caption with a card's words put where they belong: one place, one time, and two who play. */
export function inserted(caption, words, suggestions) {
  const text = caption.trim().replace(/\.$/, "");
  const told = text.toLowerCase();
  if (told.includes(words)) return caption;
  const end = (sentence) => `${sentence[0].toUpperCase()}${sentence.slice(1)}.`;
  if (!text) return end(words);
  const group = [suggestions.places, suggestions.times].find((phrases) => phrases.includes(words));
  if (group) {
    const other = group.find((phrase) => told.includes(phrase));
    if (!other) return end(`${text} ${words}`);
    const at = told.indexOf(other);
    return end(text.slice(0, at) + words + text.slice(at + other.length));
  }
  const cast = castOf(text, suggestions);
  if (cast.length === 0) {
    const isWhere = [...suggestions.places, ...suggestions.times].some((phrase) => told.startsWith(phrase));
    return end(isWhere ? `${words} ${text[0].toLowerCase()}${text.slice(1)}` : `${text} ${words}`);
  }
  const last = cast.at(-1);
  const from = told.indexOf(last);
  if (cast.length > 1) return end(text.slice(0, from) + words.replace(/^a /, "") + text.slice(from + last.length));
  return end(`${text.slice(0, from + last.length)} and ${words}${text.slice(from + last.length)}`);
}

/** A shot that could come next. */
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

/** What a story could be about. */
export function inventStory(suggestions) {
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  const one = pick(everyone(suggestions));
  const other = pick(everyone(suggestions).filter((name) => name.split(" ").every((word) => !one.includes(word))));
  return `A story about a ${one} and a ${other} ${pick(suggestions.places)} ${pick(suggestions.times)}.`;
}

/** Three shots to begin with. */
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
