"""Verbs: which of the words that may be verbs are, and which are denied."""

from shotstream.theatre.reading.lexicon import word_list
from shotstream.theatre.reading.words import Text

_CONJUNCTIONS = ("and", "while")
_TURNING = frozenset(
    ["swing", "turn", "move", "tilt", "rotate", "slide", "sweep", "glide", "pull", "drift", "point"]
)


def is_verb(text: Text, at: int) -> bool:
    """Returns whether a token that may mean an action is a verb here: not "a wave", but "takes a nap"."""
    token, before, after = text.at(at), text.at(at - 1), text.at(at + 1)
    if token.word == "like" or (token.word == "rest" and after.word == "of"):
        return False
    if before.word in ("having", "after", "had", "had been") and token.words[-1] != "asleep":
        return False
    if before.is_break or token.words[-1] == "asleep":
        return True
    if token.value("action") == "sleeps" and len(token.words) > 1:
        return True
    if before.word == "'s" and not token.word.endswith("ing"):
        return False
    if _is_done(text, at):
        return True
    if token.word in word_list("nouns_too"):
        return not _is_noun_here(text, at)
    is_possessed = before.word in ("his", "her", "its", "their")
    is_nominal = before.is_article and before.word not in ("a", "an", "that", "this")
    if (is_nominal or before.word in ("of", "no", "any", "for", "big")) and not (
        token.word.endswith("ing") or token.word.startswith("sleep")
    ):
        return is_possessed and token.value("action") in ("sleeps", "walks", "dances")
    return True


def _is_done(text: Text, at: int) -> bool:
    """Returns whether a noun is what is done: "did a big jump"."""
    index = at - 1
    while text.at(index).is_adjective:
        index -= 1
    is_article = text.at(index).word in ("a", "an", "the", "some")
    return is_article and text.at(index - 1).word in word_list("light_verbs")


def _is_noun_here(text: Text, at: int) -> bool:
    token, before, after = text.at(at), text.at(at - 1), text.at(at + 1)
    if before.is_article or before.has("colour", "number") or before.word in word_list("before_nouns"):
        return True
    if token.word in ("head", "heads"):
        return not (after.has("direction", "side", "place") or after.word in word_list("after_heads"))
    return False


def is_denied(text: Text, at: int) -> bool:
    """Returns whether a verb is denied: "does not move", "stopped dancing", not "would not stop dancing"."""
    for back in range(at - 1, max(-1, at - 4), -1):
        token = text.at(back)
        if token.value("link") == "not" and (token.word != "no" or text.at(at).word.endswith("ing")):
            if token.word.startswith("stop"):
                is_twice = text.at(back - 1).value("link") == "not"
                return back == at - 1 and text.at(at).word.endswith("ing") and not is_twice
            return True
        if token.word == "neither":
            return True
        if token.has("species", "action") or token.is_name or token.is_break:
            return False
        if token.value("link") in _CONJUNCTIONS:
            return False
    return False


def only_stops(text: Text, at: int) -> bool:
    """Returns whether a verb only ends the next one: "stops walking"."""
    after = text.at(at + 1)
    return text.at(at).words[0].startswith("stop") and after.has("action") and after.word.endswith("ing")


def turns_lens(text: Text, at: int) -> bool:
    """Returns whether a verb moves the camera: "swing the camera to the left"."""
    stem = text.at(at).words[0]
    if not any(stem.startswith(verb.removesuffix("e")) for verb in _TURNING):
        return False
    return any(text.at(index).has("lens") for index in (at + 1, at + 2))
