"""Sentences in YAML files, read as their authors intend.

YAML gives a meaning to characters that are common in sentences: "Wide shot: the fox" is a mapping, "[Wide
shot] the fox" a list followed by an error, "@fox" and "'tis night" are errors, and everything after " #" is
lost. `quote_prose` puts the sentences of a document in quotes before YAML parses it. Ambiguous lines are
refused, with the line and a remedy. Text in quotes, block text (| and >), aliases, mappings of known keys,
and the values of keys that do not hold sentences are not changed.
"""

import json
import re
from dataclasses import dataclass

from shotstream.documents import DocumentError, shorten

_BLOCK = re.compile(r"[|>][-+1-9]{0,2}[ \t]*(#.*)?")
_COMMENT = re.compile(r"(?<![ \t])([ \t]+)#(.?)")
_STANDARD_TAG = re.compile(r"!![A-Za-z]+([ \t]|$|/)")
_GROUP = re.compile(r"\{.*:(\s|$)")
# YAML reads these as line ends or drops them.
_ESCAPES = {"\x85": r"\N", "\u2028": r"\L", "\u2029": r"\P", "\ufeff": r"\uFEFF"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Patterns of the keys of a document; upper and lower case are equal."""

    prose: str
    """Keys whose values are sentences, or lists of sentences."""
    other: str
    """All other keys."""
    item_prose: str
    """Keys of `prose` that an entry of a list may have."""
    item_other: str
    """Keys of `other` that an entry of a list may have."""


def quote_prose(text: str, keys: Keys) -> tuple[str, tuple[str, ...]]:
    """Returns the document with its sentences in quotes, line by line, and the comments after them.

    A document in brackets (flow style) is returned as it is.

    Raises:
        DocumentError: A line is ambiguous.
    """
    quoter = _Quoter(text, keys)
    starts = (line.lstrip() for line in quoter.lines if not _is_idle(line))
    if next((line for line in starts if not line.startswith(("---", "%"))), "").startswith(("{", "[")):
        return text, ()
    quoter.run()
    return "\n".join(quoter.lines), tuple(quoter.comments)


class _Quoter:
    """One pass over the lines; each line belongs to one entry."""

    def __init__(self, text: str, keys: Keys) -> None:
        self.lines = text.split("\n")
        self.comments: list[str] = []
        self._anchors = set(re.findall(r"(?<!\S)&([\w-]+)", text))
        self._aliases = set(re.findall(r"(?<![^\s,\[{])\*([\w-]+)", text))
        self._prose = _key(keys.prose)
        self._known = _key(f"{keys.prose}|{keys.other}|<<", r"(?=\s|$)")
        self._item_prose = _key(keys.item_prose)
        self._item_known = _key(f"{keys.item_prose}|{keys.item_other}|<<", r"(?=\s|$)")
        self._wide_colon = re.compile(rf"(?i) *(?:- *)?((?:{keys.prose}|{keys.other})) *\uff1a")
        self._known_group = _key(f"{keys.item_prose}|{keys.item_other}|<<", before=r"\{\s*")

    def run(self) -> None:
        at = 0
        while at < len(self.lines):
            at = self._entry(at)

    def _entry(self, at: int) -> int:
        """Handles the entry that begins at a line; returns the next line."""
        line = self.lines[at] = self.lines[at].rstrip(" \t")
        if not line or line.lstrip().startswith("#"):
            return at + 1
        indent = _indent(line)
        if odd := re.match(r" *([\t\u00a0\u2000-\u200a\u202f\u3000])", line):
            name = {"\t": "a tab", "\u00a0": "a no-break space"}.get(odd[1], f"U+{ord(odd[1]):04X}")
            raise DocumentError(f"line {at + 1}: begins with {name}; indent with spaces")
        if bullet := re.match(r"\s*([*\u2013\u2014\u2022\u25cf\u00b7])\s", line):
            raise DocumentError(f"line {at + 1}: begins with {bullet[1]!r}; begin a caption with '- '")
        if wide := self._wide_colon.match(line):
            raise DocumentError(
                f"line {at + 1}: a wide colon after {wide[1]}; write the narrow one: {wide[1]}:"
            )
        dash = re.match(r"-([ \t]+|$)", line[indent:])
        column = indent + (dash.end() if dash else 0)
        rest = line[column:]
        key = (self._item_prose if dash else self._prose).match(rest)
        if key:
            return self._sentence(at, column + key.end(), column)
        if dash and not self._is_group(at, indent, rest):
            return self._sentence(at, column, indent)
        if dash or not indent:
            self._check_key(at, rest)
        value = re.search(r":[ \t]+(?=\S)", rest)
        if value:  # YAML allows no tab there
            self.lines[at] = (
                line[: column + value.start()] + value[0].replace("\t", " ") + rest[value.end() :]
            )
        return self._skip(at, column + value.end() if value else len(line), indent)

    def _is_group(self, at: int, indent: int, rest: str) -> bool:
        """Returns whether a list entry is a mapping: it begins with a key, or one is below it."""
        if self._item_known.match(rest):
            return True
        if not re.match(r"[^:]+:(\s|$)", rest):
            return False
        return any(self._item_known.match(self.lines[below].lstrip()) for below in self._below(at, indent))

    def _check_key(self, at: int, rest: str) -> None:
        """Raises DocumentError if a line that looks like a key may continue a sentence."""
        key = re.match(r"([^\"':{\[][^:]*):(\s|$)", rest)
        if key and not self._known.match(rest) and len(key[1].split()) > 1:
            raise DocumentError(
                f"line {at + 1}: {shorten(key[1])!r} is not a key; indent continued text, or put the whole "
                "text in quotes"
            )

    def _below(self, at: int, indent: int) -> range:
        """Returns the lines below a line that are indented more, without blank lines at their end."""
        end = last = at + 1
        while end < len(self.lines):
            line = self.lines[end]
            if line.strip():
                if _indent(line) <= indent:
                    break
                last = end + 1
            end += 1
        return range(at + 1, last)

    def _skip(self, at: int, column: int, indent: int) -> int:
        """Returns the line after a value that is not changed, if it has more than one line."""
        value = self.lines[at][column:]
        if _BLOCK.fullmatch(value):
            return self._below(at, indent).stop
        if value[:1] in ("'", '"'):
            end = self._quote_end(at, column)
            return at + 1 if end is None else end[0] + 1
        if value[:1] in ("[", "{"):
            return self._bracket_end(at, column) + 1
        return at + 1

    def _sentence(self, at: int, column: int, indent: int) -> int:
        """Puts a sentence in quotes that begins at a column and continues in the lines below."""
        head, first = self.lines[at][:column], self.lines[at][column:].strip(" \t")
        below = self._below(at, indent)
        if not first or re.match(r"#(?!\S)", first):
            first = ""
            opening = next((self.lines[n].strip() for n in below if not _is_idle(self.lines[n])), "")
            if not opening or opening.startswith("- ") or opening == "-" or self._known.match(opening):
                return at + 1
            if _BLOCK.fullmatch(opening) or opening[0] in "'\"[{":
                return at + 1
        elif (past := self._past_yaml(at, column, indent, first)) is not None:
            return past
        separator = "" if head.endswith((" ", "\t")) else " "
        self.lines[at] = head.replace("\t", " ") + separator + _quoted(self._folded(at, first, below))
        for number in below:
            self.lines[number] = ""
        return max(below.stop, at + 1)

    def _past_yaml(self, at: int, column: int, indent: int, first: str) -> int | None:
        """Returns the line after a value in YAML's own syntax; None: it is a plain sentence."""
        column = self.lines[at].index(first, column)
        if _BLOCK.fullmatch(first):
            return self._below(at, indent).stop
        if first[0] in "'\"":
            return self._past_quote(at, column, indent)
        if anchor := re.match(r"[*&]([\w-]+)(?=\s|$)", first):
            rest = first[anchor.end() :].strip()
            if first[0] == "&" and (anchor[1] in self._aliases or self._known_group.match(rest)):
                return self._below(at, indent).stop if rest else at + 1
            if first[0] == "*" and anchor[1] in self._anchors and (not rest or rest.startswith("#")):
                return at + 1
        if _STANDARD_TAG.match(first):
            return self._below(at, indent).stop
        if first[0] == "{" and (self._known_group.match(first) or _GROUP.match(first) or first == "{"):
            return self._bracket_end(at, column) + 1
        return None

    def _past_quote(self, at: int, column: int, indent: int) -> int | None:
        """Returns the line after a quoted text; None: its quote is part of a sentence."""
        quote = self.lines[at][column]
        end = self._quote_end(at, column)
        if end is not None:
            last, after = end
            rest = self.lines[last][after:]
            is_alone = not rest.strip() or re.match(r"[ \t]+#", rest)
            between = range(at + 1, last + 1)
            crosses = any(
                _indent(self.lines[n]) <= indent and self._begins_entry(self.lines[n]) for n in between
            )
            if is_alone and not crosses:
                self.lines[last] = self.lines[last][:after]
                return last + 1
            if last == at:
                return None
        if quote == "'":
            return None
        raise DocumentError(f"line {at + 1}: the double quote that begins the text is not closed at its end")

    def _begins_entry(self, line: str) -> bool:
        return bool(re.match(r"\s*-(\s|$)", line) or self._known.match(line.lstrip()))

    def _quote_end(self, at: int, column: int) -> tuple[int, int] | None:
        """Returns line and column after the closing quote; None: there is none."""
        quote = self.lines[at][column]
        pattern = r"""(?:[^"\\]|\\.)*""" if quote == '"' else r"(?:[^']|'')*"
        number, column = at, column + 1
        while number < len(self.lines):
            inside = re.compile(pattern).match(self.lines[number], column)
            assert inside is not None, "nothing is also inside"
            if self.lines[number][inside.end() : inside.end() + 1] == quote:
                return number, inside.end() + 1
            number, column = number + 1, 0
        return None

    def _bracket_end(self, at: int, column: int) -> int:
        """Returns the line at which brackets are closed."""
        depth, number = 0, at
        while number < len(self.lines):
            bare = re.sub(r""""(?:[^"\\]|\\.)*"|'[^']*'|(?<!\S)#.*""", "", self.lines[number][column:])
            depth += len(re.findall(r"[\[{]", bare)) - len(re.findall(r"[\]}]", bare))
            if depth <= 0:
                return number
            number, column = number + 1, 0
        raise DocumentError(f"line {at + 1}: a bracket that is not closed; put text with brackets in quotes")

    def _folded(self, at: int, first: str, below: range) -> str:
        """Returns a sentence folded as in YAML: a line end is a space, a blank line a line end."""
        pieces = [self._without_comment(at, first)] if first else []
        num_blank = 0
        for number in below:
            piece = self.lines[number].strip(" \t")
            if not piece:
                num_blank += bool(pieces)
                continue
            if piece.startswith("#") and not re.match(r"#\d", piece):
                continue
            if re.match(r"-(\s|$)", piece):
                raise DocumentError(
                    f"line {number + 1}: indented more deeply than the text before it; give both the same "
                    "indentation, or put text that begins with a dash in quotes"
                )
            if self._known.match(piece):
                raise DocumentError(
                    f"line {number + 1}: {shorten(piece)!r} stands below a text; begin the text with "
                    "'caption:' and give both the same indentation"
                )
            pieces.append(("\n" * num_blank or " ") * bool(pieces) + self._without_comment(number, piece))
            num_blank = 0
        return "".join(pieces)

    def _without_comment(self, number: int, piece: str) -> str:
        """Returns a line of a sentence without a comment; raises DocumentError if # is ambiguous."""
        for found in _COMMENT.finditer(piece):
            if found[2].isdigit():
                continue
            if (len(found[1]) > 1 or "\t" in found[1]) and found[2] in ("", " ", "#"):
                self.comments.append(f"line {number + 1} {shorten(piece[found.end(1) :])!r}")
                return piece[: found.start()]
            raise DocumentError(
                f"line {number + 1}: YAML ends the text before '#'; put the whole text in quotes, or the "
                "comment on a separate line"
            )
        return piece


def _key(keys: str, after: str = "", before: str = "") -> re.Pattern[str]:
    return re.compile(rf"""{before}(?P<quote>["']?)(?i:{keys})(?P=quote) *:{after}""")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _is_idle(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _quoted(sentence: str) -> str:
    quoted = json.dumps(sentence, ensure_ascii=False)
    return "".join(_ESCAPES.get(char, char) for char in quoted)
