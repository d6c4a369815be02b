"""The upper bound of choosing context frames: a choice that knows the plan and has read the film so far.

It chooses as the policy `prompt` does, but a shot counts as showing a character or a place only if the oracle
has read the right detail in it, that of the film's earliest shot that shows it. What remains wrong is
therefore the model's own error, not that of the choice. No policy can be this one: it sees the truth.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shotstream.evaluation.films import FilmSource
from shotstream.streaming.content_policies import ContentPolicy
from shotstream.streaming.context_candidates import ContextCandidate, NextShot
from shotstream.streaming.context_sampling import POLICIES
from shotstream.streaming.matching import Facts, match_facts
from shotstream.streaming.noise import shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.oracle import ShotFacts, planned, read_shot
from shotstream.theatre.world import TheatreStory

NAME = "perfect_choice"
"""Name of the policy while its films are made."""


class PerfectChoice(ContentPolicy):
    """The choice of one story's film; `watch` tells it each shot."""

    def __init__(self, story: TheatreStory) -> None:
        super().__init__("captions", max_shots=3)
        self._plans = [planned(shot) for shot in story.shots]
        self._right: dict[str, object] = {}
        self._shown: list[Facts] = []

    def watch(self, seen: ShotFacts) -> None:
        """Adds the next shot, as the oracle has read it."""
        details: dict[str, object] = {
            f"{one.actor.colour} {one.actor.species}": one.actor.scarf for one in seen.actors
        }
        if seen.layout_legible:
            details[seen.place] = seen.layout
        for thing, detail in details.items():
            self._right.setdefault(thing, detail)
        facts = _facts(self._plans[len(self._shown)])
        right = {thing for thing, detail in details.items() if self._right[thing] == detail}
        self._shown.append(replace(facts, hides=frozenset(facts.things) - right))

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> list[ContextCandidate]:
        """Returns frames of the shots that match best among those that show the right details."""
        following = _facts(self._plans[next_shot.index])
        matched: list[ContextCandidate] = []
        for candidate in candidates:
            match = match_facts(self._shown[candidate.shot_index], following)
            matched.append(replace(candidate, match=match if match and match.shared else None))
        return super().choose(matched, budget, next_shot, rng)


def perfect_choice_films(pipeline: StreamingPipeline, *, num_chunks: int, seed: int) -> FilmSource:
    """Returns the films of a model under perfect choice, with the noise of `model_films`."""

    def film(number: int, story: TheatreStory) -> list[np.ndarray]:
        policy = POLICIES[NAME] = PerfectChoice(story)
        takes: list[np.ndarray] = []
        try:
            session = pipeline.session(story.global_caption, seed=seed + number, policy=NAME)
            for index, caption in enumerate(story.captions):
                chunks = session.shot(caption, num_chunks=num_chunks, seed=shot_seed(seed + number, index))
                takes.append(np.concatenate([chunk.frames for chunk in chunks]))
                policy.watch(read_shot(takes[-1]).facts)
        finally:
            del POLICIES[NAME]
        return takes

    return film


def _facts(plan: ShotFacts) -> Facts:
    actors = (f"{one.actor.colour} {one.actor.species}" for one in plan.actors)
    return Facts(things=(*actors, plan.place), framing=plan.framing)
