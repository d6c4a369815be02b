"""Sentences: which actors a text names, and what each of them does where.

Sentences are read from left to right. A verb belongs to the noun phrase right before it, else to the clause's
subjects, else to the next noun phrase ("Asleep on the left: the bear."). Objects do nothing, unless the verb
or the preposition says that they do the same ("races the bear", "dances with the bear").
"""

from typing import Final

from shotstream.theatre.cast import ACTIONS
from shotstream.theatre.reading.discourse import Action, Actor, Cast, Discourse
from shotstream.theatre.reading.lexicon import nearest_action, word_list
from shotstream.theatre.reading.noun_phrases import NounPhrase, NounPhrases
from shotstream.theatre.reading.verbs import is_denied, is_verb, only_stops, turns_lens
from shotstream.theatre.reading.words import Text, Token

_SENTENCE_ENDS: Final = frozenset(".!?;\n")
_RELATIVES: Final = frozenset(["who", "which", "that"])
_SEQUENCE: Final = frozenset(["then", "and then", "now", "finally", "later", "once"])
_SCREEN: Final = frozenset(["frame", "screen", "camera", "stage"])
_REACH: Final = 7
_FAR: Final = 40


def read_text(text: Text, discourse: Discourse) -> Cast:
    """Returns the actors of a text and what they do; adds them to the discourse."""
    discourse.begin_text()
    scan = _Sentences(text, discourse)
    scan.read()
    cast = Cast(
        actors=[actor for actor in discourse.in_order() if not actor.is_stranger],
        camera=scan.camera,
        orphans=scan.pending,
        side=scan.pending_side,
        direction=scan.pending_direction,
    )
    cast.actions = {id(actor): action for actor in cast.actors if (action := actor.chosen_action())}
    if scan.is_alone:
        cast.actors = cast.actors[:1]
    return cast


class _Sentences:
    """The state of reading one text."""

    def __init__(self, text: Text, discourse: Discourse) -> None:
        self.text, self.discourse = text, discourse
        self.phrases = NounPhrases(text, discourse)
        self.camera: str | None = None
        self.is_alone = False
        # What was said without somebody who does it yet.
        self.pending: list[Action] = []
        self.pending_side: str | None = None
        self.pending_direction: str | None = None
        # The last noun phrase: its actors, with those that it joined, and alone; the index after it.
        self.local: list[Actor] = []
        self.last: list[Actor] = []
        self.last_end = -1
        self._begin_sentence()

    def _begin_sentence(self) -> None:
        self.subjects_before = list(self.discourse.subjects)
        self.num_actions_before = {id(actor): len(actor.actions) for actor in self.discourse.actors}
        self.local = []
        self.is_local_broken = True  # by a comma or a conjunction
        self.has_acted = False  # the subjects have their verb
        self.can_join = False  # the next noun phrase may be a second subject
        self.has_conjunction = False  # the next noun phrase is no object
        self.is_camera = False  # the subject is the camera
        self.copies = False  # "so does ..."
        self.given: list[Action] = []  # what the last subjects were said to do
        self.is_object = False  # the last noun phrase is an object
        self.is_other = False  # the last noun phrase is "the other one"

    @property
    def subjects(self) -> list[Actor]:
        """The subjects of the clause."""
        return self.discourse.subjects

    def read(self) -> None:
        """Reads the text."""
        at = 0
        while at < len(self.text):
            token = self.text.at(at)
            if token.word in _SENTENCE_ENDS:
                if token.word == "?" and self.text.at(at + 1).word == "no":
                    self._forget_sentence()
                self._end_sentence()
                self._begin_sentence()
                at += 1
                continue
            phrase = self._phrase(at)
            if phrase is not None:
                self._mention(at, phrase)
                at = phrase.end
                continue
            self._token(at, token)
            at += 1
        self._end_sentence()

    def _phrase(self, start: int, *, peek: bool = False) -> NounPhrase | None:
        return self.phrases.starting(start, self.subjects if self.local else [], peek=peek)

    def _forget_sentence(self) -> None:
        for actor in self.discourse.actors:
            del actor.actions[self.num_actions_before.get(id(actor), 0) :]
        self.pending = []

    def _end_sentence(self) -> None:
        seen = [actor for actor in self.subjects_before if actor in self.discourse.seen]
        if seen:
            for actor in seen:
                self._give_pending(actor)
            self._forget_pending()

    def _give_pending(self, actor: Actor) -> None:
        actor.actions += self.pending
        actor.side = actor.side or self.pending_side
        actor.direction = actor.direction or self.pending_direction

    def _forget_pending(self) -> None:
        self.pending, self.pending_side, self.pending_direction = [], None, None

    def _target(self) -> list[Actor]:
        """Returns those whom a word is about: the last noun phrase, or the subjects of this sentence."""
        if self.local and not self.is_local_broken:
            return self.local
        return self.subjects if self.local else []

    def _act(self, actors: list[Actor], action: Action) -> None:
        for actor in actors:
            actor.actions.append(action)
        self.has_acted, self.can_join, self.given = True, False, [action]

    # Words

    def _token(self, at: int, token: Token) -> None:
        if token.word == "(":
            self.local, self.is_local_broken = self.last, not self.last
        elif token.word == ")":
            self.is_local_broken = True
        elif token.is_break or token.value("link") in ("and", "while"):
            self._break(token)
        elif token.word in _RELATIVES and self.last:
            self.local, self.is_local_broken, self.is_object = self.last, False, False
        elif token.word in word_list("gone") and self._is_gone(at):
            self._remove_last()
        elif token.has("lens") and self._is_lens_subject(at):
            self._lens(at)
        elif token.has("camera") and not token.has("framing"):
            self.is_camera = False
        elif token.has("pan") and self._is_pan(at):
            self.is_camera = True
            self._camera_moves(at)
        elif token.has("direction", "side") and self._is_position(at):
            self._position(at, token)
        elif token.has("action"):
            self._verb(at, token)
        elif token.word in word_list("waking") and is_denied(self.text, at):
            self._act(self._target(), Action("sleeps"))
        elif token.value("pronoun") == "same":
            self._same(at)
        elif token.word in ("alone", "solo"):
            self.is_alone = True
        elif token.has("colour"):
            self._colour(at, token)
        elif token.is_strange:
            self._strange_verb(at, token)

    def _break(self, token: Token) -> None:
        self.is_local_broken = self.can_join = True
        if token.value("link") == "while":
            joins = token.word in ("then", "and then") and not self.has_acted  # "first a robot, then a fox"
            self.has_conjunction, self.can_join, self.is_camera = True, joins, False
            if token.word in _SEQUENCE:
                for actor in self.subjects:
                    actor.last_counts = bool(actor.actions)
        if token.word == ",":
            self.is_camera = False
        if token.is_break or self.has_acted:
            self.has_conjunction = True

    def _is_gone(self, at: int) -> bool:
        near = [self.text.at(index) for index in range(at - 3, at)]
        if self.text.at(at).word in ("here", "there"):
            return any(token.value("link") == "not" for token in near)
        return self.text.at(at).word == "nowhere" or any(
            token.value("link") == "be" or token.word in ("has", "have", "had") for token in near
        )

    def _remove_last(self) -> None:
        for actor in self.last:
            if actor in self.discourse.seen and not actor.actions:
                self.discourse.seen.remove(actor)

    def _colour(self, at: int, token: Token) -> None:
        """Reads "the bear is grey", "a fox, red as fire", "both grey"."""
        after = self.text.at(at + 1)
        if after.has("place", "time", "framing") or after.is_strange:
            return
        near = [self.text.at(index) for index in range(at - 4, at)]
        if near[-1].value("link") == "not":
            return  # "not red but green"
        words = {word for other in near for word in other.words}
        seen = [actor for actor in self.discourse.seen if not actor.is_stranger]
        bare = [actor for actor in seen if actor.colour is None]
        target = self.last or self.subjects or seen
        has_more = any(self.text.at(index).has("colour") for index in range(at + 1, at + 4))
        if has_more and len(bare) > 1 and after.value("link") == "and":
            target = bare[:1]  # "a rabbit and a bear, blue and yellow"
        elif near[-1].word in ("one", "1") or (
            "one" in words and bare and all(actor.colour for actor in self.last or seen[:1])
        ):
            target = bare[:1]
        elif words & {"both", "all", "two", "are", "were"} and len(bare) > 1 and not has_more:
            target = bare
        elif len(target) > 1 and has_more:
            target = [actor for actor in target if actor.colour is None][:1]
        for actor in target:
            actor.colour = actor.colour or token.value("colour")
        if any(other.value("link") == "be" for other in near):
            self.has_acted, self.can_join = True, False

    # The camera

    def _is_lens_subject(self, at: int) -> bool:
        before = self.text.at(at - 2 if self.text.at(at - 1).is_article else at - 1)
        if before.is_break:
            return True
        if turns_lens(self.text, at - 1) or turns_lens(self.text, at - 2):
            return not self.local
        if before.value("link") in ("at", "from") or before.has("action", "framing"):
            return before.word in ("keep", "hold")
        return self.text.at(at).word not in ("shot", "view", "shots", "views")

    def _lens(self, at: int) -> None:
        self.is_camera = True
        for index in range(at + 1, at + 4):
            if self.text.at(index).word in ("steady", "still", "static", "fixed", "locked", "motionless"):
                self.camera = self.camera or "still"

    def _is_pan(self, at: int) -> bool:
        if self.text.at(at).word.startswith("pan") or self.is_camera:
            return True
        is_led = any(self.text.at(index).has("direction") for index in (at + 1, at + 2))
        return not self.local and is_led

    def _camera_moves(self, at: int) -> bool:
        """Takes the direction of the camera's movement, after the verb or before it; or returns False."""
        for index in range(at + 1, at + _REACH):
            token = self.text.at(index)
            if token.word in _SENTENCE_ENDS or token.has("species") or token.is_name:
                break
            direction = token.value("direction") or token.value("side")
            if direction in ("left", "right"):
                self.camera = self.camera or f"pans {direction}"
                return True
        direction = self.text.at(at - 1).value("direction")
        if direction:
            self.camera = self.camera or f"pans {direction}"
        return direction is not None

    # Places to stand, and ways to walk

    def _is_position(self, at: int) -> bool:
        token, before, after = (self.text.at(index) for index in (at, at - 1, at + 1))
        if token.word == "right" and after.word in word_list("after_right"):
            return before.value("action") == "walks" and after.word in ("on", "in", "at")
        if token.word == "left" and after.word in ("the", "his", "her", "its", "behind", "for"):
            return before.value("action") == "walks"
        return before.word not in word_list("looking")

    def _position(self, at: int, token: Token) -> None:
        side, direction = token.value("side"), token.value("direction")
        if self.is_camera or self.text.at(at + 1).word.startswith("pan"):
            if (direction or side) in ("left", "right"):
                self.camera = self.camera or f"pans {direction or side}"
            return
        if side in ("left", "right") and not direction and self._is_way(at, token):
            side, direction = None, side
        if direction and token.words[0] in ("from", "in") and "to" not in token.words:
            self._comes_from(at, direction)
            return
        target = self.last if self.last and self.last_end == at else self._target()
        if direction and self.is_object and self.has_acted:
            target = self.subjects
        if self._belongs_to_next(at) or not target:
            self.pending_side, self.pending_direction = (
                side or self.pending_side,
                direction or self.pending_direction,
            )
            return
        for actor in target:
            actor.side = actor.side or side
            actor.direction = actor.direction or direction

    def _is_way(self, at: int, token: Token) -> bool:
        """Returns whether a side is where somebody goes: "towards frame left", "exits screen right"."""
        before = self.text.at(at - 1)
        if before.word in ("to", "toward", "towards") or (
            before.word == "of" and self.text.at(at - 2).word == "direction"
        ):
            return True
        acts = [actor.actions[-1].name for actor in self._target() if actor.actions]
        return token.words[0] in _SCREEN and acts[-1:] == ["walks"]

    def _comes_from(self, at: int, direction: str) -> None:
        """Reads "from the left": a walk to the right, or somebody who stands on the left."""
        away = "left" if direction == "right" else "right"
        if self._belongs_to_next(at):
            if self.pending and self.pending[-1].name != "walks":
                self.pending_side = away
            else:
                self.pending_direction = direction
            return
        for actor in self.subjects if self.is_object and self.has_acted else self._target():
            if actor.chosen_action() in (None, "walks"):
                actor.direction = actor.direction or direction
            else:
                actor.side = actor.side or away

    def _belongs_to_next(self, at: int) -> bool:
        """Returns whether what is said at a token is said of the next noun phrase, not of the last."""
        if not self._target():
            return True
        if not self.is_local_broken:
            return False
        for index in range(at + 1, at + 4):
            token = self.text.at(index)
            if token.word in _SENTENCE_ENDS or token.has("action"):
                return False
            if token.word in (",", ":", "is", "there") or token.has("place", "time"):
                continue
            if self.text.at(at).has("action") and token.value("link") in ("at", "from", "with"):
                return False
            if self._phrase(index, peek=True) is not None:
                return True
        return False

    # Verbs

    def _verb(self, at: int, token: Token) -> None:
        name = token.value("action") or ""
        if not self.local and turns_lens(self.text, at):
            self.is_camera = True
            self._camera_moves(at)
            return
        if not is_verb(self.text, at) or only_stops(self.text, at):
            return
        is_not = is_denied(self.text, at)
        if self.is_camera:
            if not self._camera_moves(at) and (is_not or name == "stands"):
                self.camera = self.camera or "still"
            return
        if is_not:
            if name not in ("walks", "jumps", "dances"):
                return
            name = "stands"
        target = self._target()
        if token.has("place", "time") and not target:
            return
        action = Action(name, is_weak=name == "stands" or token.word in word_list("weak_walks"))
        if not target or (self.is_local_broken and self._belongs_to_next(at)):
            self.pending.append(action)
        else:
            self._act(target, action)

    def _strange_verb(self, at: int, token: Token) -> None:
        """Reads a verb that the world does not have as the nearest action that it has."""
        name = nearest_action(token.word)
        before = self.text.at(at - 1)
        target = self._target()
        if target and name in ACTIONS and not before.is_article and not before.is_adjective:
            self._act(target, Action(name, is_weak=True))

    def _same(self, at: int) -> None:
        """Reads "so does the bear", "the bear does the same", "the bear too"."""
        word = self.text.at(at).word
        source = next((actor for actor in reversed(self.discourse.seen) if actor.actions), None)
        if source is None or (word in ("too", "also") and self.text.at(at + 1).is_adjective):
            return
        target = self._target()
        if target and not any(actor.actions for actor in target):
            for actor in target:
                actor.actions += source.actions
                actor.direction = actor.direction or source.direction
            self.has_acted = True
        elif word.startswith(("so ", "join", "along", "accompanied")):
            self.copies = True

    # Noun phrases

    def _mention(self, at: int, phrase: NounPhrase) -> None:
        """Makes the actors of a noun phrase subjects or objects of the clause."""
        actors, before = phrase.actors, self.text.at(at - 1)
        if self._is_predicate(at) and self._merge(actors):
            self.last_end = phrase.end
            self.has_acted, self.can_join = True, False
            return
        is_simile = before.word == "like" or (before.word == "as" and self.text.at(at - 3).word == "as")
        if before.value("link") == "not" or is_simile:
            return
        if self._describes_nameless(actors, phrase):
            return
        if self.is_other and before.word == "," and self.last_end == at - 1 and not self.has_acted:
            self._remove_last()  # "the other one, the rabbit, has dozed off"
            self.discourse.subjects = []
        is_told = self.text.at(at).value("pronoun") != "two"
        for actor in actors:
            self.discourse.see(actor, is_told=is_told)
            actor.actions += [Action(name, is_weak=name == "stands") for name in phrase.actions]
        is_after_preposition = before.value("link") in ("at", "from", "with") or before.word in word_list(
            "sharing"
        )
        preposition = before.word if is_after_preposition else ""
        has_joined = False
        self.is_other = self.text.at(at).value("pronoun") == "other"
        self.is_object = bool(preposition and self.local)
        if preposition and self.local:
            has_joined = self._object(actors, preposition, at)
        elif preposition and self._is_no_subject(preposition, phrase.end):
            self.local, self.is_local_broken = actors, False
            self.discourse.subjects = []
            return
        elif self.local and self.has_acted and not self.has_conjunction:
            self.is_object = True
            self._object(actors, "", at)
        else:
            has_joined = self._subject(actors, phrase.end)
        self.local, self.is_local_broken = (list(self.subjects) if has_joined else actors), False
        self.last, self.last_end, self.is_camera = actors, phrase.end, False

    def _describes_nameless(self, actors: list[Actor], phrase: NounPhrase) -> bool:
        """Reads "Hugo and Iris, a frog and an owl"; returns whether it is that."""
        nameless = [actor for actor in self.subjects if actor.name and actor.species is None]
        if len(nameless) > 1 and len(actors) == 2 and all(a.is_twin and not a.name for a in actors):
            for actor in nameless:  # "Leo and Cleo, twin foxes"
                actor.species, actor.colour = actors[0].species, actor.colour or actors[0].colour
            self.last, self.last_end = nameless, phrase.end
            return True
        is_new = len(actors) == 1 and actors[0] not in self.discourse.actors and not actors[0].name
        if not nameless or self.has_acted or not self.can_join or not is_new or actors[0].is_stranger:
            return False
        nameless[0].species, nameless[0].colour = actors[0].species, actors[0].colour
        self.last, self.last_end = nameless[:1], phrase.end
        return True

    def _is_predicate(self, at: int) -> bool:
        """Returns whether a noun phrase says what its subject is: "Bruno is a grey bear"."""
        before = self.text.at(at - 1)
        if before.word == "both":
            before = self.text.at(at - 2)
        return bool(self.local) and before.value("link") == "be"

    def _merge(self, actors: list[Actor]) -> bool:
        """Gives the subjects the species and colours of what they are said to be; or returns False."""
        subjects = self.last if len(actors) == 1 else self.subjects
        if not subjects or any(actor in self.discourse.seen for actor in actors if actor not in subjects):
            return False
        if actors[0].is_stranger:
            subjects[0].roles |= actors[0].roles  # "the red fox is the boss"
            self.discourse.strangers -= actors[0].roles
            return True
        for number, subject in enumerate(subjects):
            said = actors[min(number, len(actors) - 1)]
            if subject.species and said.species and subject.species != said.species:
                return False
            subject.species, subject.colour = subject.species or said.species, subject.colour or said.colour
            subject.is_stranger = subject.is_stranger and not said.species
        return True

    def _is_no_subject(self, preposition: str, end: int) -> bool:
        """Returns whether the clause's subject is still to come: "Next to the owl a frog dances"."""
        if preposition in word_list("openers") or preposition in word_list("sharing"):
            return False
        for index in range(end, end + 5):
            token = self.text.at(index)
            if token.word in _SENTENCE_ENDS or token.has("action"):
                return False
            if self._phrase(index, peek=True) is not None:
                return True
        return False

    def _object(self, actors: list[Actor], preposition: str, at: int) -> bool:
        """Takes an object, which may do what the subjects do; returns whether it has become a subject."""
        verb = next(
            (token for token in reversed(self.text[max(0, at - _FAR) : at]) if token.has("action")), None
        )
        if preposition in word_list("sharing") and not self.has_acted:
            self._join(actors)
            return True
        is_joint = verb is not None and verb.word in word_list("joint_verbs") and self.has_acted
        if (preposition in word_list("sharing") or is_joint) and self.subjects:
            for actor in actors:
                actor.actions = actor.actions or self.subjects[0].actions[-1:]
        return False

    def _join(self, actors: list[Actor]) -> None:
        self.discourse.subjects = [*self.subjects, *(a for a in actors if a not in self.subjects)]

    def _subject(self, actors: list[Actor], end: int) -> bool:
        """Takes subjects; returns whether they have joined those before."""
        is_first = not self.local
        is_again = len(self.subjects) > len(actors) and all(actor in self.subjects for actor in actors)
        joins = not (is_first or not self.can_join or self.has_acted or self.copies or is_again)
        shared = [] if is_first or joins or self._verb_follows(end) else self.given
        way = self.subjects[0].direction if shared and self.subjects else None
        if joins:
            self._join(actors)
        else:
            self.discourse.subjects = list(actors)
            self.has_acted = False
        self.can_join = self.has_conjunction = False
        for actor in actors:
            self._give_pending(actor)
            if self.copies:
                source = next(
                    (a for a in reversed(self.discourse.seen) if a.actions and a is not actor), None
                )
                actor.actions += source.actions if source else []
            if not actor.actions and shared:
                actor.actions, actor.direction = list(shared), actor.direction or way
        if self.pending:
            self.has_acted, self.given = True, self.pending
        self._forget_pending()
        self.copies = False
        return joins

    def _verb_follows(self, at: int) -> bool:
        """Returns whether a verb comes before the sentence ends: these actors have their own."""
        for index in range(at, at + _FAR):
            token = self.text.at(index)
            if token.word in _SENTENCE_ENDS:
                return False
            if token.value("link") == "not" or (token.has("action") and is_verb(self.text, index)):
                return True  # "he waves, she doesn't"
        return False
