"""Text into words with their meanings: contractions, phrases, names, slips of the keyboard.

No word is lost: each is in one `Token`, understood or not.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from shotstream.theatre.reading.lexicon import Sense, is_english, lexicon, word_list

_CLOCK: Final = re.compile(
    r"\b([01]?\d|2[0-3])(?:[:.]([0-5]\d))?(?: ?([ap])\.?m\b\.?|(?<=\d[:.]\d\d)\b)", re.I
)
_BREAKS: Final = ".,;:!?()\n"
_TOKEN: Final = re.compile(r"'s\b|[^\W_]+(?:'[^\W_]+)*'?|[&+@]|[.,;:!?()\n]")
_CONTRACTIONS: Final = (
    (re.compile(r"\b(can|won|shan)'?t\b", re.I), "will not"),
    (re.compile(r"n't\b", re.I), " not"),
    (re.compile(r"\b(does|is|was|do|did|are|were|has|have|would|could)nt\b", re.I), r"\1 not"),
    (re.compile(r"\b(can)not\b", re.I), r"\1 not"),
    (re.compile(r"\bdont\b", re.I), "do not"),
    (re.compile(r"'(d)\b", re.I), " would"),
    (re.compile(r"\b(he|she|who|there|here)s\b", re.I), r"\1 is"),
    (
        re.compile(
            r"\bits(?= (?:a|an|the|so|now|all|almost|nearly|getting|still|\w+ing|day\w*|nig?h?t\w*|nite|dark"
            r"|dusk|dawn|morning|evening|sun\w*|noon|mid\w*)\b)",
            re.I,
        ),
        "it is",
    ),
    (re.compile(r"'(re)\b", re.I), " are"),
    (re.compile(r"'(ll)\b", re.I), " will"),
    (re.compile(r"'(ve)\b", re.I), " have"),
    (re.compile(r"\bi'm\b", re.I), "i am"),
    (re.compile(r"\b(it|he|she|who|that|there|here|what|let|where|everyone|one|other)'s\b", re.I), r"\1 is"),
    (re.compile(r"\b(they)re\b", re.I), r"\1 are"),
    (re.compile(r"\b(\w+in)'(?=\s)", re.I), r"\1g"),
)
# English words that are a slip of another word where they are said of an actor or after an article.
_REAL_SLIPS: Final = {
    "see": "sea",
    "beech": "beach",
    "bare": "bear",
    "beer": "bear",
    "fix": "fox",
    "nigh": "night",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase, or a punctuation mark, with what it may mean."""

    text: str
    """As it was written."""
    words: tuple[str, ...]
    """Its words in lower case, corrected; a punctuation mark alone."""
    senses: tuple[Sense, ...] = ()
    is_name: bool = False
    is_filler: bool = False
    """Whether it is an English word that means nothing that is drawn."""
    original: tuple[str, ...] = field(default=(), compare=False)
    """Its words in lower case, before they were corrected."""

    @property
    def is_break(self) -> bool:
        """Whether it is a punctuation mark."""
        return self.words[0] in _BREAKS

    @property
    def is_article(self) -> bool:
        """Whether it is an article or a possessive."""
        return self.word in word_list("articles")

    @property
    def is_adjective(self) -> bool:
        """Whether it is an adjective that is not drawn."""
        return self.word in word_list("adjectives")

    @property
    def is_strange(self) -> bool:
        """Whether it means nothing that is known, not even to the grammar."""
        is_known = self.senses or self.is_filler or self.is_adjective or self.is_break or self.is_name
        return not is_known and self.word != "'s"

    @property
    def word(self) -> str:
        """Its words in one string."""
        return " ".join(self.words)

    def value(self, kind: str) -> str | None:
        """Returns what it means of this kind, or None."""
        return next((sense.value for sense in self.senses if sense.kind == kind), None)

    def has(self, *kinds: str) -> bool:
        """Returns whether it has a meaning of one of these kinds."""
        return any(sense.kind in kinds for sense in self.senses)


END: Final = Token(".", (".",))
"""The end of a sentence: what is before the first token and after the last."""


class Text(tuple[Token, ...]):
    """The tokens of a text."""

    __slots__ = ()

    def at(self, index: int) -> Token:
        """Returns a token; `END` before the first and after the last."""
        return self[index] if 0 <= index < len(self) else END


def normalised(text: str) -> str:
    """Returns a text with plain quotes and spaces, its contractions written out."""
    text = unicodedata.normalize("NFKC", text)
    for wrong, right in (
        ("\u2019", "'"),
        ("\u2018", "'"),
        ("`", "'"),
        ("\u201c", " "),
        ("\u201d", " "),
        ('"', " "),
    ):
        text = text.replace(wrong, right)
    text = re.sub(r"(?:^|(?<=\s))[-\u2013\u2014/|>]+(?=\s|$)|\u2014|\u2013|\u2026|\.\.\.+|--+", " , ", text)
    text = re.sub(r"\b(ext|int|ms|ls|cu|ws|mr|mrs|no)\.(?=\s)", r"\1 ", text, flags=re.I)
    text = re.sub(r"\b([A-Za-z])\.(?=[A-Za-z]\.)", r"\1", text)
    text = _CLOCK.sub(_part_of_day, text)
    text = re.sub(r"\(l\)", " left ", text, flags=re.I)
    text = re.sub(r"\(r\)", " right ", text, flags=re.I)
    text = re.sub(r"(?<=\s)L(?=[\s,.;]|$)", "left", text)
    text = re.sub(r"(?<=\s)R(?=[\s,.;]|$)", "right", text)
    text = re.sub(r"(?<![\w.])1(?= \w)", "one", text)
    for pattern, instead in _CONTRACTIONS:
        text = pattern.sub(instead, text)
    return text.replace("-", " ").replace("/", " , ")


def _part_of_day(clock: re.Match[str]) -> str:
    """Returns the time of day of "8 pm" or "20:30" as a word."""
    hour = int(clock[1]) % 12 if clock[3] else int(clock[1])
    hour += 12 if (clock[3] or "").lower() == "p" else 0
    if 7 <= hour < 17:
        return " noon "
    return " dusk " if 5 <= hour < 20 else " midnight "


def raw_words(text: str) -> list[str]:
    """Returns the words and marks of a normalised text, as written."""
    found = [word.rstrip("'") or word for word in _TOKEN.findall(text)]
    words: list[str] = []
    for word in found:
        if word.endswith("'s") and len(word) > 2:
            words += [word[:-2], "'s"]
        else:
            words.append(word)
    return words


def tokens(text: str, names: Iterable[str] = ()) -> Text:
    """Returns the tokens of a text; `names` are words in lower case that name an actor."""
    written = raw_words(normalised(text))
    known = frozenset(names)
    spelt = [_spelt(written, at, known) for at in range(len(written))]
    return Text(_phrases(written, spelt, known))


def _spelt(written: Sequence[str], at: int, names: frozenset[str]) -> str:
    word = written[at].lower()
    lex = lexicon()
    before = written[at - 1].lower() if at else ""
    if word in _REAL_SLIPS and word not in names:
        after = written[at + 1].lower() if at + 1 < len(written) else "."
        if not (after in _BREAKS or lex.senses((after,)) or after in lex.filler):
            return word  # "the bare stone"
        nouny = before in word_list("articles") or any(s.kind == "colour" for s in lex.senses((before,)))
        return _REAL_SLIPS[word] if nouny else word
    if word in _BREAKS or word in lex.words or word in names or word == "'s" or not word.isalpha():
        return word
    if is_english(word):
        return word
    if (
        written[at][0].isupper()
        and at
        and before not in (".", "!", "?", "\n", ":")
        and not written[at].isupper()
    ):
        return word  # a name
    return lex.corrected(word) or word


def _phrases(written: Sequence[str], spelt: Sequence[str], names: frozenset[str]) -> Iterator[Token]:
    lex = lexicon()
    at = 0
    while at < len(spelt):
        word = spelt[at]
        if word in names and _is_named(written[at]):
            yield Token(written[at], (word,), is_name=True, original=(word,))
            at += 1
            continue
        for length in range(min(lex.longest, len(spelt) - at), 0, -1):
            words = tuple(spelt[at : at + length])
            senses = lex.senses(words)
            if senses and (length == 1 or not any(w in names for w in words)):
                yield Token(
                    " ".join(written[at : at + length]),
                    words,
                    senses,
                    is_filler=length == 1 and word in lex.filler,
                    original=tuple(w.lower() for w in written[at : at + length]),
                )
                at += length
                break
        else:
            yield Token(written[at], (word,), is_filler=word in lex.filler, original=(written[at].lower(),))
            at += 1


def _is_named(written: str) -> bool:
    """Returns whether a word is the name: names that mean something ("Ruby") need their capital."""
    lex = lexicon()
    return not lex.senses((written.lower(),)) or written[0].isupper()
