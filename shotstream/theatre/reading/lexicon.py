"""The lexicon of the reader: what words and phrases mean, in every form, and spelling.

`lexicon.yaml` says what is understood. `english.txt.gz` holds the other English words, some with the nearest
thing that the world has; it is derived from WordNet 3.0 by `scripts/derive_nearest_words`.
"""

import gzip
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LONGEST: Final = 30
_VOWELS: Final = "aeiou"
_NOUNS: Final = ("species", "generic", "place", "lens")
_VERBS: Final = ("action", "pan")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
# Which meaning a misspelt word has if several are one letter away: what films are about first.
_LIKELY: Final = ("species", "colour", "action", "place", "time", "framing", "direction", "side", "camera")


class Sense(NamedTuple):
    """One meaning of a word or phrase: its kind, a section of the lexicon, and the name in it."""

    kind: str
    value: str


class Lexicon:
    """The words and phrases that are understood."""

    def __init__(self) -> None:
        """Reads the lexicon of the package."""
        text = (files("shotstream.theatre.reading") / "lexicon.yaml").read_text(encoding="utf-8")
        sections = yaml.load(text, Loader=_Loader)
        self.lists: dict[str, frozenset[str]] = {
            name: frozenset(map(str, entries)) for name, entries in sections.pop("lists").items()
        }
        self.filler: frozenset[str] = frozenset(
            word for entry in sections.pop("filler") for word in str(entry).replace("-", " ").split()
        )
        self.phrases: dict[tuple[str, ...], tuple[Sense, ...]] = {}
        for kind, meanings in sections.items():
            for value, entries in meanings.items():
                for entry in entries:
                    for form in _forms(kind, str(entry).lower().replace("-", " ")):
                        key = tuple(form.split())
                        senses = self.phrases.get(key, ())
                        sense = Sense(kind, value)
                        self.phrases[key] = senses if sense in senses else (*senses, sense)
        self.longest = max(map(len, self.phrases))
        self.words = frozenset(word for key in self.phrases for word in key) | self.filler
        self.core: dict[str, list[str]] = defaultdict(list)
        """The words that are drawn, by their first letter."""
        for word in sorted(self.words):
            if any(sense.kind in _LIKELY for sense in self.senses((word,))):
                self.core[word[0]].append(word)

    def senses(self, words: tuple[str, ...]) -> tuple[Sense, ...]:
        """Returns the meanings of a phrase in lower case; empty if it is not understood."""
        return self.phrases.get(words, ())

    @cache  # noqa: B019 (there is one lexicon)
    def corrected(self, word: str) -> str | None:
        """Returns the word of the lexicon that is one slip of the keyboard away, two in a long word, or None.

        Two only where the first letter is right, and no English word is one away.
        """
        if not 3 <= len(word) <= _LONGEST:
            return None
        near = {found for found in _slips(word) if found in self.words and len(found) > 2}
        if not near and len(word) > 5 and not any(slip in english() for slip in _slips(word)):
            near = {found for found in self.core[word[0]] if _distance(found, word) == 2}
        return min(near, key=lambda found: (self._unlikely(found, word), found), default=None)

    def _unlikely(self, found: str, word: str) -> tuple[bool, bool, int]:
        kinds = [sense.kind for sense in self.senses((found,))]
        rank = min((_LIKELY.index(kind) for kind in kinds if kind in _LIKELY), default=len(_LIKELY))
        return (found[0] != word[0], rank >= len(_LIKELY), rank + (sorted(found) != sorted(word)))


@cache
def lexicon() -> Lexicon:
    """Returns the lexicon, which is read once."""
    return Lexicon()


def word_list(name: str) -> frozenset[str]:
    """Returns a list of words of the grammar, by its name in `lexicon.yaml`."""
    return lexicon().lists[name]


@cache
def english() -> dict[str, str]:
    """Returns all other English words, each with the nearest name of the world, or ""."""
    return {word: near for word, near, _ in _english()}


@cache
def english_verbs() -> dict[str, str]:
    """Returns the English verbs with the nearest action of the world."""
    return {word: action for word, _, action in _english() if action}


@cache
def _english() -> list[tuple[str, str, str]]:
    packed = (files("shotstream.theatre.reading") / "english.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return [tuple((line + "\t\t").split("\t")[:3]) for line in lines]  # pyright: ignore[reportReturnType]


def is_english(word: str) -> bool:
    """Returns whether a word in lower case is English, in any regular form."""
    return any(base in english() for base in _bases(word))


def is_base(word: str) -> bool:
    """Returns whether a word in lower case is English as it is, without an ending."""
    return word in english()


def nearest_action(word: str) -> str:
    """Returns the nearest action to a verb in lower case; "" if nothing is near."""
    return next((english_verbs()[base] for base in _bases(word) if base in english_verbs()), "")


def nearest(word: str) -> str:
    """Returns the nearest thing that the world has to a word in lower case; "" if nothing is near."""
    return next((english()[base] for base in _bases(word) if english().get(base)), "")


def _bases(word: str) -> Iterator[str]:
    yield word
    for ending, instead in (
        ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"),
    ):  # fmt: skip
        if word.endswith(ending) and len(word) > len(ending) + 1:
            if ending == "es" and not word[:-2].endswith(("s", "x", "z", "ch", "sh", "o")):
                continue
            stem = word.removesuffix(ending) + instead
            yield stem
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[-3] in _VOWELS:
                yield stem[:-1]


def _forms(kind: str, entry: str) -> Iterator[str]:
    """Returns a phrase in all forms of its first word (a verb) or its last (a noun)."""
    entry, *irregular = entry.split("/")
    yield entry
    yield from irregular
    if kind in _VERBS:
        verb, _, rest = entry.partition(" ")
        for form in _verb_forms(verb):
            yield f"{form} {rest}".strip()
    elif kind in _NOUNS or entry.endswith(("shot", "view")):
        yield from _plurals(entry)


def _verb_forms(verb: str) -> Iterator[str]:
    if verb == "be":
        yield from ("is", "are", "was", "were", "am", "been", "being")
        return
    yield from _plurals(verb)
    if verb.endswith("ie"):
        yield from (verb + "d", verb[:-2] + "ying", verb + "ing")
    elif verb.endswith("e"):
        yield from (verb + "d", verb[:-1] + "ing", verb + "ing")
    elif verb.endswith("y") and verb[-2] not in _VOWELS:
        yield from (verb[:-1] + "ied", verb + "ing")
    else:
        yield from (verb + "ed", verb + "ing")
        if len(verb) > 2 and verb[-1] not in _VOWELS + "wxy" and verb[-2] in _VOWELS:
            yield from (verb + verb[-1] + "ed", verb + verb[-1] + "ing")


def _plurals(noun: str) -> Iterator[str]:
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        yield noun[:-1] + "ies"
    elif noun.endswith(("s", "x", "z", "ch", "sh", "o")):
        yield noun + "es"
        yield noun + "s"
    else:
        yield noun + "s"


def _distance(one: str, other: str) -> int:
    """Returns the number of slips between two words, 3 if there are more than two."""
    if abs(len(one) - len(other)) > 2:
        return 3
    older: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        older, last, row = row, older, [i]
        for j, own in enumerate(other, 1):
            cost = min(row[-1] + 1, older[j] + 1, older[j - 1] + (letter != own))
            if i > 1 and j > 1 and letter == other[j - 2] and own == one[i - 2]:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > 2:
            return 3
    return row[-1]


def _slips(word: str) -> Iterator[str]:
    """Returns the words that differ by one letter, left out, added, changed or swapped with the next."""
    for at in range(len(word) + 1):
        head, tail = word[:at], word[at:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in _LETTERS:
            yield head + letter + tail
            if tail:
                yield head + letter + tail[1:]
