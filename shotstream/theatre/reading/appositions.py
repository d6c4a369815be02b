"""Appositions: what follows a noun or a name and tells more of it."""

from typing import Final

from shotstream.theatre.reading.lexicon import lexicon, word_list
from shotstream.theatre.reading.words import Text, Token

_MOST_LISTED: Final = 9


def apposition(text: Text, at: int) -> tuple[int, str | None, str | None]:
    """Returns the index after what follows a name, and the species and the colour in it.

    Such as ", the grey bear", " is a grey bear", " the bear", " the grey", ", who is a bear",
    ": bear, grey" or "(bear, grey)".
    """
    index, separator = at, ""
    for index in range(at, at + 4):
        token = text.at(index)
        if token.word in (",", "(", ":", ";") and not separator and (token.word != ";"):
            separator = token.word
        elif token.word in ("is", "was", "who", "'s"):
            separator = separator or "is"
        else:
            break
    is_close = bool(separator) or text.at(index).text[:1].isupper()
    return _appositive(text, at, index, separator, is_close)


def _appositive(
    text: Text, at: int, start: int, separator: str, is_close: bool
) -> tuple[int, str | None, str | None]:
    has_article = False
    colour = species = None
    end = at
    for index in range(start, start + 8):
        token, after = text.at(index), text.at(index + 1)
        if token.is_article and not has_article and species is None:
            has_article = True
        elif token.has("species") and species is None and (is_close or has_article or colour):
            if separator == "," and not has_article and not colour and is_plural(token):
                break  # the next of a list
            species, end = token.value("species"), index + 1
        elif token.has("colour") and colour is None and (has_article or separator):
            colour = token.value("colour")
            end = index + 1 if species or (has_article and not separator) else end
        elif (token.word == "," and after.has("colour") and species and colour is None) or (
            token.word == "," and separator in ("(", ":") and colour and species is None
        ):
            continue
        elif species and token.value("generic") == "one":
            end = index + 1
        elif not (species is None and has_article and (token.is_adjective or token.is_strange)):
            break
    if species is None and not (colour and end > at):
        return at, None, None
    if text.at(end).word in (",", ")") and separator in (",", "("):
        end += 1
    return end, species, colour


def name_after(text: Text, at: int) -> tuple[str | None, int]:
    """Returns the name after "a bear called", "the bear ," or "grey bear", and the index after it."""
    if text.at(at).value("link") == "called":
        end = at + 2
        while text.at(end).is_name:
            end += 1
        return (text.at(end - 1).word if text.at(end - 1).is_name else text.at(at + 1).word), end
    if text.at(at).word == "," and text.at(at + 1).is_name:
        after = text.at(at + 2).word
        if after in (",", ".", ")"):
            return text.at(at + 1).word, at + 3 if after == "," else at + 2
    elif text.at(at).is_name:
        return text.at(at).word, at + 1
    return None, at


def listed_colours(text: Text, at: int) -> tuple[list[str], int]:
    """Returns the colours of ", one red and one green" or ", red and blue", and the index after them."""
    colours: list[str] = []
    end = at
    for index in range(at, at + _MOST_LISTED):
        token = text.at(index)
        if token.has("colour"):
            colours.append(token.value("colour") or "")
            end = index + 1
            if len(colours) == 2:
                break
        elif not (token.word in word_list("listing") or token.value("link") in ("and", "be")):
            break
    return colours, end


def is_plural(token: Token) -> bool:
    """Returns whether a noun of the lexicon is in the plural."""
    *before, last = token.words
    if not last.endswith("s"):
        return False
    singulars = [(*before, last.removesuffix("s")), (*before, last.removesuffix("es"))]
    return any(lexicon().senses(singular) for singular in singulars) or last.endswith("ies")
