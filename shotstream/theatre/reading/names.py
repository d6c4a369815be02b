"""Names of actors: found in all captions of a story before they are read."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from shotstream.theatre.reading.lexicon import is_base, is_english, lexicon, word_list
from shotstream.theatre.reading.words import normalised, raw_words

_CALLING: Final = frozenset({"called", "named", "nicknamed", "aka"})
_NEVER: Final = (
    "species",
    "link",
    "pronoun",
    "framing",
    "camera",
    "place",
    "time",
    "direction",
    "lens",
    "pan",
    "generic",
)
_BEING: Final = frozenset(["is", "was", "are", "were", "'s"])
_REACH: Final = 6
_ENDS: Final = frozenset(".!?\n;")


def find_names(texts: Sequence[str]) -> frozenset[str]:
    """Returns the words, in lower case, by which the texts call actors."""
    return frozenset().union(*map(_names_in, texts))


@lru_cache(maxsize=1024)
def _names_in(text: str) -> frozenset[str]:
    words = raw_words(normalised(text))
    shouted = sum(word.isupper() for word in words) * 2 > len(words)
    found = {
        words[at].lower()
        for at in range(len(words))
        if _may_be_name(words, at) and _is_introduced(words, at, shouted)
    }
    return frozenset(found | _listed(words))


def _may_be_name(words: Sequence[str], at: int) -> bool:
    word = words[at].lower()
    if not word.isalpha() or len(word) < 2:
        return False
    if at and (words[at - 1].lower() in _CALLING or _is_told(words, at)):
        return word not in word_list("articles")
    if (
        at > 1
        and (words[at - 2].lower(), words[at - 1].lower()) in (("i", "am"), ("name", "is"))
        and not _is_told(words, at)
    ):
        return False  # "I am Tim"
    is_common = word in lexicon().filler and not (
        words[at][0].isupper() and word in word_list("adjectives") | word_list("name_words")
    )
    is_doing = word.endswith("ing") and _is(word, "action")
    return not (is_common or is_doing or _is(word, *_NEVER))


def _is_introduced(words: Sequence[str], at: int, shouted: bool) -> bool:
    word = words[at]
    before = words[at - 1].lower() if at else "."
    after = [w.lower() for w in words[at + 1 : at + 4]] + ["", "", ""]
    capital = word[0].isupper() and not shouted
    means = bool(lexicon().senses((word.lower(),)))
    strange = not means and not is_english(word.lower()) and lexicon().corrected(word.lower()) is None
    if before in _CALLING or _is_told(words, at):
        return True
    if not capital and not strange:
        return False
    starts = before in _ENDS or before == ":"
    # "Bruno the grey bear", "Bruno, a grey bear", "Bruno is a bear", "Wanda, who is a frog"
    at_link = 1 if after[0] in {",", "(", ":"} | _BEING else 0
    if after[at_link] in ("who", "which"):
        at_link += 2
    link = (*after, "", "")[at_link] in word_list("articles")
    bare = after[0] in {"(", ":", ","} and (capital or strange) and _species_next(words, at + 2)
    if (link and _species_near(words, at + 1)) or bare:
        return before not in word_list("articles")
    # "the bear, Bruno," and "grey bear Bruno", "Robot Ada"
    if capital and _is(before, "species") and not starts:
        return True
    if capital and before == "," and at > 1 and _is(words[at - 2].lower(), "species"):
        return after[0] in {",", ".", ")", ""}
    # "Molly Frog", "Bea is red"
    if capital and strange and _is(after[0], "species"):
        return True
    # "Grandpa Frog"
    if (
        capital
        and not means
        and words[at + 1 : at + 2]
        and words[at + 1][0].isupper()
        and _is(after[0], "species")
    ):
        return before not in word_list("articles")
    if means:
        return (
            capital and after[0] in _BEING and _is(after[1], "colour") and before not in word_list("articles")
        )
    if before in word_list("where") and is_base(word.lower()):
        return False  # "on Earth"
    if after[0] == "the" and _is(after[1], "colour") and capital:
        return True  # "Ash the grey"
    if word.lower() in lexicon().filler:
        return False
    if before in _BEING and at > 1 and _is(words[at - 2].lower(), "species") and capital:
        return True  # "The robot is Rex"
    return (
        capital
        and (not starts or strange or after[0] in _BEING or after[0] == ",")
        and before not in word_list("articles")
    )


def _is_told(words: Sequence[str], at: int) -> bool:
    """Returns whether a name is told: "his name is Bob"; "my name is Bob" tells of no actor."""
    before = [word.lower() for word in words[max(0, at - 3) : at]]
    return len(before) > 2 and before[1] == "name" and before[2] in _BEING and before[0] not in ("my", "our")


def _listed(words: Sequence[str]) -> set[str]:
    """Returns the names of "two foxes, Ruby and Jade" and "Dot and Dash are robots"."""
    found: set[str] = set()
    for at in range(len(words) - 2):
        one, link, two = words[at : at + 3]
        if link.lower() not in ("and", "&") or not (one[0].isupper() and two[0].isupper()):
            continue
        if (
            not (one.isalpha() and two.isalpha())
            or one.lower() in word_list("articles")
            or _is(one.lower(), "species", "pronoun")
            or _is(two.lower(), "species", "pronoun")
        ):
            continue
        before = [word.lower() for word in words[max(0, at - 2) : at]]
        after = [word.lower() for word in words[at + 3 : at + 6]]
        if (len(before) > 1 and before[1] in (",", ":") and _is(before[0], "species", "generic")) or (
            after
            and (after[0] == "are" or after[0] == ",")
            and any(_is(word, "species") for word in words[at + 3 : at + 8])
        ):
            found |= {one.lower(), two.lower()}
    return found


def _species_near(words: Sequence[str], start: int) -> bool:
    for word in words[start : start + _REACH]:
        if word in _ENDS:
            return False
        if _is(word.lower(), "species"):
            return True
    return False


def _species_next(words: Sequence[str], at: int) -> bool:
    """Returns whether a species follows at once, after colours."""
    for word in words[at : at + 3]:
        if _is(word.lower(), "species"):
            return True
        if not (_is(word.lower(), "colour") or word == "," or word.lower() in word_list("articles")):
            return False
    return False


def _is(word: str, *kinds: str) -> bool:
    return any(sense.kind in kinds for sense in lexicon().senses((word,)))
