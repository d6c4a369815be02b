"""The setting that a text states: place, time, framing and camera."""

from dataclasses import dataclass, field

from shotstream.theatre.reading.lexicon import nearest, word_list
from shotstream.theatre.reading.words import Text
from shotstream.theatre.sets import PLACES


@dataclass(frozen=True, slots=True)
class Setting:
    """Place, time, framing and camera that a text states, or None."""

    place: str | None = None
    time: str | None = None
    framing: str | None = None
    camera: str | None = None
    near: dict[str, str] = field(default_factory=dict)
    """What is nearest to things that the world does not have, used if nothing else is said."""


def read_setting(text: Text) -> Setting:
    """Returns the setting that a text states."""
    return Setting(
        place=_stated(text, "place", word_list("weak_places")),
        time=_stated(text, "time", word_list("weak_times")) or _sun(text),
        framing=_framing(text),
        camera=next((t.value("camera") for t in text if t.has("camera")), None),
        near=_near(text),
    )


def _stated(text: Text, kind: str, weak_words: frozenset[str]) -> str | None:
    strong: list[tuple[int, str]] = []
    weak: list[tuple[int, str]] = []
    left: list[tuple[int, str]] = []
    for at, token in enumerate(text):
        value = token.value(kind)
        if value is None or (kind == "time" and _is_no_time(text, at)):
            continue
        if kind == "place" and text.at(at - 1).word == "as":
            continue  # "white as snow"
        if _demoted(text, at):
            left.append((at, value))
        elif token.word in weak_words:
            weak.append((at, value))
        else:
            strong.append((at, value))
    for found in (strong, weak, left):
        if found:
            first, value = found[0]
            # "a mountain meadow": the last word of a compound is what it is.
            for at, other in found[1:]:
                if at != first + 1:
                    break
                first, value = at, other
            return value
    return None


def _sun(text: Text) -> str | None:
    """Returns the time that the word "sun" tells: it sinks, or it shines."""
    for at, token in enumerate(text):
        if token.words[-1] == "sun":
            near = {word for other in text[max(0, at - 2) : at + 8] for word in other.words}
            if any(
                other.value("link") == "not" or other.word == "never" for other in text[max(0, at - 4) : at]
            ):
                return "night"
            return "sunset" if near & word_list("sinking") else "day"
    return None


def _is_no_time(text: Text, at: int) -> bool:
    word, before = text[at].word, text[at - 1].word if at else ""
    return word == "day" and before in word_list("no_day")


def _demoted(text: Text, at: int) -> bool:
    """Returns whether a place is left or denied: "from the forest to the beach", "not in the city"."""
    for token in reversed(text[max(0, at - 5) : at]):
        if token.word in word_list("from") or token.value("link") == "from":
            return True
        if token.word not in word_list("skipped") and not token.has("place", "colour"):
            return False
    return False


def _framing(text: Text) -> str | None:
    for at, token in enumerate(text):
        value = token.value("framing")
        if value and (token.word not in word_list("weak_framings") or _frames(text, at)):
            return value
    return None


def _frames(text: Text, at: int) -> bool:
    """Returns whether a word such as "wide" or "close" is about the picture: "wide shot", "stay close."."""
    word, before, after = text.at(at).word, text.at(at - 1).word, text.at(at + 1).word
    is_alone = before in ".,:(" and after in ".,:)"
    is_told = before in word_list("before_frames") or (before in ("a", "the") and after == "of")
    is_first = at == 0 and word not in ("wide", "tight")
    follows = after in word_list("frame_words") and (
        after not in ("and", "but", "the", "on", "of") or before in ".,:"
    )
    return is_alone or is_told or is_first or follows


def _near(text: Text) -> dict[str, str]:
    found: dict[str, str] = {}
    for token in text:
        if token.is_strange:
            name = nearest(token.word)
            if name in PLACES:
                found.setdefault("place", name)
    return found
