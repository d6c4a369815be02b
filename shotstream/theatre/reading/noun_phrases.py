"""Noun phrases: "the grey bear", "two frogs, one red and one green", "Bruno", "the other one", "they"."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shotstream.theatre.cast import SPECIES
from shotstream.theatre.reading.appositions import apposition, is_plural, listed_colours, name_after
from shotstream.theatre.reading.discourse import Actor, Discourse
from shotstream.theatre.reading.lexicon import nearest, word_list
from shotstream.theatre.reading.words import Text, Token

_MOST_WORDS: Final = 6
_SUBJECT_PRONOUNS: Final = frozenset(["they", "them", "neither", "themselves", "each other", "one another"])
_NUMBERS: Final = frozenset(["two", "2", "both", "the two", "these two"])
_POSSESSIVES: Final = frozenset(["his", "her", "its", "their"])
_CALLING: Final = frozenset(["called", "named", "nicknamed", "known as", "aka"])


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun phrase: the actors that it means, and what it says of them."""

    actors: list[Actor]
    end: int
    """Index of the token after it."""
    actions: list[str] = field(default_factory=list)
    """What its participles say: "a sleeping bear"."""


@dataclass(slots=True)
class _Described:
    """What the words before a noun say."""

    article: str | None = None
    number: int | None = None
    colours: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    strange: list[Token] = field(default_factory=list)
    has_pair: bool = False
    """Whether two colours are joined: "a red and a blue fox"."""

    @property
    def has_begun(self) -> bool:
        """Whether a noun must follow."""
        return bool(self.article or self.number or self.colours)

    @property
    def colour(self) -> str | None:
        """The first colour, or None."""
        return self.colours[0] if self.colours else None


class NounPhrases:
    """The noun phrases of a text, in a discourse."""

    def __init__(self, text: Text, discourse: Discourse) -> None:
        self.text, self.discourse = text, discourse

    def starting(self, start: int, subjects: Sequence[Actor], *, peek: bool = False) -> NounPhrase | None:
        """Returns the noun phrase that starts at a token, or None.

        Args:
            start: Index of the token.
            subjects: The subjects of the clause so far.
            peek: Adds nothing to the discourse.
        """
        if self.text.at(start).is_break:
            return None
        return self._pronoun(start, subjects) or self._described(start, subjects, peek)

    # Pronouns

    def _pronoun(self, at: int, subjects: Sequence[Actor]) -> NounPhrase | None:
        kind = self.text.at(at).value("pronoun")
        if kind == "one":
            return self._singular(at)
        if kind == "two" or kind == "each":
            return self._plural(at, subjects)
        if kind == "other" and not self.text.at(at + 1).has("species", "colour"):
            before = self.discourse.subjects
            other = self.discourse.other(
                subjects or (before if len(before) == 1 else self.discourse.actors[:1])
            )
            return NounPhrase([other], at + 1) if other else None
        return None

    def _singular(self, at: int) -> NounPhrase | None:
        word = self.text.at(at).word
        if word == "who" or (word == "her" and self._is_possessive(at + 1)):
            return None
        if word == "it" and self._is_impersonal(at):
            return None
        if word in ("the former", "the latter"):
            pair = self.discourse.two()
            return NounPhrase([pair[0 if word == "the former" else -1]], at + 1) if pair else None
        found = self.discourse.one(word)
        return NounPhrase([found], at + 1) if found else None

    def _plural(self, at: int, subjects: Sequence[Actor]) -> NounPhrase | None:
        word = self.text.at(at).word
        if word in ("all", "we", "every", "one") or (word in _NUMBERS and self._head_follows(at + 1)):
            return None
        if word == "each" and self.text.at(at + 1).word == "other":
            return None
        pair = self.discourse.two()
        if word in word_list("together") and (subjects or self.discourse.seen or len(pair) < 2):
            return None
        return NounPhrase(pair, at + 1) if pair else None

    def _is_possessive(self, at: int) -> bool:
        token = self.text.at(at)
        if token.is_break or token.has("link", "direction", "side", "pronoun"):
            return False
        is_verb = token.has("action") and token.words[0].endswith("ing")
        return not (is_verb or (token.is_filler and token.word in word_list("prepositions")))

    def _is_impersonal(self, at: int) -> bool:
        """Returns whether "it" means nobody: "it is night", "it is getting dark", "it is only Max"."""
        first = self.text.at(at + 1)
        if first.value("link") != "be" and first.word not in ("gets", "becomes", "got", "will"):
            return False
        for index in range(at + 2, at + 5):
            token = self.text.at(index)
            if token.word in ("past", "after", "before", "near"):
                continue
            if token.has("time", "place") or token.is_name or token.has("species"):
                return True
            if token.is_break or token.has("action", "link", "direction", "side"):
                return False
        return False

    def _head_follows(self, at: int) -> bool:
        for index in range(at, at + 4):
            token = self.text.at(index)
            if token.has("species", "generic") or token.is_name:
                return True
            if not (token.has("colour") or token.is_article or token.is_adjective):
                return False
        return False

    # Descriptions

    def _described(self, start: int, subjects: Sequence[Actor], peek: bool) -> NounPhrase | None:
        said = _Described()
        for at in range(start, start + _MOST_WORDS + 1):
            token = self.text.at(at)
            if token.is_name:
                return self._named(at, said, peek)
            if token.has("species"):
                return self._species(at, said, peek)
            if token.word in ("one", "ones") and said.colours:
                return NounPhrase([self._coloured(said.colours[0], peek)], at + 1, said.actions)
            if token.word == "one" and at == start:
                return self._first_of_two(at)
            if (
                token.value("generic")
                and not token.has("time")
                and (said.has_begun or token.value("generic") == "two")
            ):
                return self._generic(at, said, subjects)
            if token.is_article and (said.article or (said.colours and not said.has_pair)):
                return None
            if self._is_colour_alone(at, said):
                return NounPhrase([self._coloured(token.value("colour") or "", peek)], at + 1)
            if token.is_strange and (said.has_begun or at == start):
                said.strange.append(token)
                if not self._head_soon(at + 1):
                    if self.text.at(at + 1).is_strange and len(said.strange) < 3:
                        continue
                    return self._stranger(at, said, subjects, start)
            elif not self._modifies(at, start, said):
                return None
        return None

    def _modifies(self, at: int, start: int, said: _Described) -> bool:
        """Takes a word before a noun into the description; returns whether it is one."""
        token, after = self.text.at(at), self.text.at(at + 1)
        if token.is_article:
            said.article = token.word
        elif token.value("link") == "number" or token.word in _NUMBERS:
            said.number = 2
        elif token.has("colour"):
            said.colours.append(token.value("colour") or "")
        elif token.value("link") == "and" and said.colours and self._colour_follows(at + 1):
            said.has_pair = True
        elif token.has("action") and self._is_participle(at, start, said):
            said.actions.append(token.value("action") or "")
        else:
            is_other = token.value("pronoun") == "other"
            is_kind = token.has("place", "time") and after.has("species", "colour")
            return (
                (token.is_adjective and (said.has_begun or at == start))
                or (is_other and bool(said.article or token.word.startswith("the")))
                or (is_kind and bool(said.article or said.colours))
                or (token.word == "," and bool(said.colours) and after.has("colour"))
            )
        return True

    def _is_colour_alone(self, at: int, said: _Described) -> bool:
        """Returns whether "the red" means an actor: "the purple snores; the yellow, at left, waves"."""
        token, after = self.text.at(at), self.text.at(at + 1)
        if said.article != "the" or not token.has("colour") or said.colours:
            return False
        bare_or_known = [a for a in self.discourse.actors if a.colour in (None, token.value("colour"))]
        ends = (
            after.word == ","
            or after.value("link") == "at"
            or (after.has("action") and not after.has("colour"))
        )
        return ends and len(self.discourse.actors) > 1 and bool(bare_or_known)

    def _colour_follows(self, at: int) -> bool:
        return self.text.at(at + 1 if self.text.at(at).is_article else at).has("colour")

    def _is_participle(self, at: int, start: int, said: _Described) -> bool:
        token, before = self.text.at(at), self.text.at(start - 1)
        if not (token.words[0].endswith("ing") or token.word in word_list("state")):
            return False
        if not said.has_begun and not before.is_break:
            return False
        for index in (at + 1, at + 2):
            ahead = self.text.at(index)
            if ahead.has("species"):
                return True
            if not ahead.has("colour") and not ahead.is_adjective:
                return False
        return False

    def _head_soon(self, at: int) -> bool:
        """Returns whether a noun that is known follows at once: what was before it is an adjective."""
        for index in range(at, at + 3):
            token = self.text.at(index)
            if token.has("species") or token.is_name:
                return True
            if token.is_break or not (token.has("colour") or token.is_adjective or token.is_strange):
                return False
            if token.is_strange and nearest(token.word) in SPECIES:
                return True
        return False

    def _coloured(self, colour: str, peek: bool) -> Actor:
        """Returns whom "the red one" means."""
        found = self.discourse.matching(None, colour)
        if found is not None:
            return found
        seen = [actor for actor in self.discourse.seen if not actor.is_stranger]
        bare = next((actor for actor in seen if actor.colour is None), None)
        if bare is None:
            return Actor(colour=colour, species=seen[-1].species if seen else None)
        if not peek:
            bare.colour = colour
        return bare

    def _first_of_two(self, at: int) -> NounPhrase | None:
        after = self.text.at(at + 1)
        pair = self.discourse.two()
        does = after.has("action") or after.value("link") == "be"
        return NounPhrase([pair[0]], at + 1) if does and len(pair) == 2 else None

    # Names

    def _named(self, at: int, said: _Described, peek: bool) -> NounPhrase:
        text, name = self.text, self.text.at(at).word
        end, species, colour = apposition(self.text, at + 1)
        if self._is_second_of_list(at):
            end, species, colour = at + 1, None, None
        elif end == at + 1 and text.at(end).is_name and self.discourse.named(text.at(end).word) is None:
            end, species, colour = apposition(self.text, end + 1)  # a name of two words
        actor = self.discourse.named(name)
        if actor is None:
            actor = Actor(name=name) if peek else self._newly_named(at, species, colour or said.colour)
        actor.species, actor.colour = actor.species or species, actor.colour or colour or said.colour
        if not peek:
            actor.roles |= {token.word for token in said.strange}
        return NounPhrase([actor], end, said.actions)

    def _is_second_of_list(self, at: int) -> bool:
        """Returns whether what follows a name belongs to two: "Hugo and Iris, a frog and an owl"."""
        before = self.text.at(at - 2)
        if (
            self.text.at(at - 1).value("link") != "and"
            or not before.is_name
            or self.text.at(at + 1).word != ","
        ):
            return False
        first = self.discourse.named(before.word)
        return first is not None and first.species is None

    def _newly_named(self, at: int, species: str | None, colour: str | None) -> Actor:
        """Returns a new actor, or the one whose name it must be."""
        actor = self._unnamed(at, species, colour) or Actor(species=species, colour=colour)
        actor.name, actor.is_stranger = self.text.at(at).word, False
        role = self.text.at(at - 2).word  # "his valet, Jenkins"
        if self.text.at(at - 1).word in (",", ":") and role in self.discourse.strangers:
            actor.roles.add(role)
            self.discourse.forget_stranger(role)
        return actor

    def _unnamed(self, at: int, species: str | None, colour: str | None) -> Actor | None:
        """Returns the actor that a name is given to."""
        before, discourse = self.text.at(at - 1), self.discourse
        unnamed = [actor for actor in discourse.actors if actor.name is None]
        further = self.text.at(at - 2)
        is_told = before.word in _CALLING or (
            before.value("link") == "be" and (further.word == "name" or further.has("species"))
        )
        if is_told and not species and discourse.subjects and discourse.subjects[0].name is None:
            return discourse.subjects[0]
        if species:
            same = discourse.matching(species, colour)
            return same if same is not None and same.name is None else None
        twins = [actor for actor in unnamed if actor.is_twin]
        if twins:
            return twins[0]
        if before.word in (",", ":", "(") and unnamed and not discourse.text_begins:
            return unnamed[-1]
        known = [actor for actor in unnamed if not actor.is_stranger]
        is_only = len(known) == 1 and len(discourse.actors) == 1 and discourse.text_begins
        return known[0] if is_only else None

    # Species and other nouns

    def _species(self, at: int, said: _Described, peek: bool) -> NounPhrase:
        token, discourse = self.text.at(at), self.discourse
        species, end, colours = token.value("species") or "", at + 1, said.colours
        has_two = said.number == 2 or (is_plural(token) and self.text.at(end).word not in word_list("body"))
        if (has_two or said.has_pair) and len(colours) < 2:
            listed, after = listed_colours(self.text, end)
            if len(listed) == 2:
                colours, end = listed, after
        if has_two or said.has_pair:
            if len(colours) > 1:
                return NounPhrase([self._resolved(species, c, None) for c in colours[:2]], end, said.actions)
            same = [actor for actor in discourse.actors if actor.species == species and not actor.is_stranger]
            if len(same) < 2 or (said.number == 2 and said.article in ("a", "an")):
                same = [Actor(species=species, colour=said.colour, is_twin=True) for _ in range(2)]
            return NounPhrase(same[:2], end, said.actions)
        colour = colours[-1] if colours else None
        name, name_end = name_after(self.text, end)
        known = discourse.named(name) if name else None
        if known is not None and known.species in (None, species):
            known.species, known.colour = species, known.colour or colour
            return NounPhrase([known], name_end, said.actions)
        actor = self._resolved(species, colour, said.article)
        if name is not None:
            if actor.name not in (None, name):
                actor = Actor(species=species, colour=colour)
            if not peek:
                actor.name = name
            end = name_end
        return NounPhrase([actor], end, said.actions)

    def _resolved(self, species: str, colour: str | None, article: str | None) -> Actor:
        found = None if article == "another" else self.discourse.matching(species, colour)
        if found is None:
            return Actor(species=species, colour=colour)
        found.colour, found.species = found.colour or colour, found.species or species
        return found

    def _generic(self, at: int, said: _Described, subjects: Sequence[Actor]) -> NounPhrase | None:
        """Returns the noun phrase of "the animal", "his friend", "both siblings"."""
        token, discourse = self.text.at(at), self.discourse
        kind = {"bird": "owl", "machine": "robot", "amphibian": "frog"}.get(token.word)
        found = discourse.matching(kind, said.colour) if kind else None
        if found is None and (token.value("generic") == "two" or said.number == 2):
            pair = discourse.two()
            return NounPhrase(pair, at + 1, said.actions) if len(pair) > 1 else None
        if found is None and said.colours:
            found = discourse.matching(None, said.colours[0])
        elif found is None:
            is_partner = token.word in ("partner", "friend", "companion") and len(discourse.actors) > 1
            if said.article in (*_POSSESSIVES, "another") or (said.article == "the" and is_partner):
                found = discourse.other(subjects or discourse.actors[:1])
            elif said.article not in ("a", "an"):
                found = discourse.one(token.word)
        return NounPhrase([found], at + 1, said.actions) if found else None

    def _stranger(
        self, at: int, said: _Described, subjects: Sequence[Actor], start: int
    ) -> NounPhrase | None:
        """Returns something that the world does not have, or the actor that a noun is a role of."""
        word, discourse = said.strange[-1].word, self.discourse
        known = discourse.with_role(word)
        if known is not None:
            return NounPhrase([known], at + 1)
        near = nearest(word)
        if not (said.article or said.colours):
            before, after = self.text.at(start - 1), self.text.at(at + 1)
            is_bare = before.is_break and not subjects and after.has("side") and near
            return NounPhrase([self._strange_actor(word, None)], at + 1) if is_bare else None
        if not self._may_be_noun(at):
            return None
        if self.text.at(at + 1).word == "," and self.text.at(at + 2).is_article and near in SPECIES:
            named = self._described(at + 2, subjects, False)  # "her cousin, a purple rabbit"
            if named is not None and len(named.actors) == 1 and not named.actors[0].is_stranger:
                named.actors[0].roles.add(word)
                return named
        if near not in SPECIES:
            return self._strange_subject(at, word, subjects, start)
        cast = [actor for actor in discourse.actors if not actor.is_stranger]
        if word in word_list("own") and said.article in _POSSESSIVES:
            other = discourse.other(subjects or discourse.subjects)
            if other is not None:
                return NounPhrase([other], at + 1)
        if (
            said.article not in ("a", "an")
            and word not in discourse.strangers
            and cast
            and not discourse.is_global
        ):
            return NounPhrase([cast[0] if len(cast) == 1 else discourse.one(word) or cast[0]], at + 1)
        return NounPhrase([self._strange_actor(word, near)], at + 1)

    def _strange_subject(
        self, at: int, word: str, subjects: Sequence[Actor], start: int
    ) -> NounPhrase | None:
        """Returns the subject of "A unicorn gallops by": it takes the verb, and is not shown."""
        before = self.text.at(start - 1)
        begins = before.is_break or before.value("link") in ("and", "while")
        after = self.text.at(at + 1)
        if subjects or not begins or not (after.has("action") and _is_finite(after)):
            return None
        return NounPhrase([self._strange_actor(word, None)], at + 1)

    def _strange_actor(self, word: str, near: str | None) -> Actor:
        self.discourse.strangers.add(word)
        known = [actor for actor in self.discourse.actors if actor.is_stranger and word in actor.roles]
        return known[0] if known else Actor(species=near, is_stranger=True, roles={word})

    def _may_be_noun(self, at: int) -> bool:
        after = self.text.at(at + 1)
        return not after.has("action") or _is_finite(after)


def _is_finite(token: Token) -> bool:
    return token.words[0].endswith(("s", "ed", "ing")) or token.words[0] in ("slept", "ran", "sat", "stood")
