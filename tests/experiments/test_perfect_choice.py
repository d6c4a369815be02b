"""Perfect choice: it takes what shows the right detail, and nothing that shows a wrong one."""

from dataclasses import replace

import numpy as np

from experiments.perfect_choice import PerfectChoice
from shotstream.streaming.context_candidates import NextShot
from shotstream.theatre.cast import Actor
from shotstream.theatre.oracle import planned
from shotstream.theatre.render import Performance, Shot
from shotstream.theatre.world import TheatreStory
from tests.streaming.tiny import tiny_memory

FOX = Actor("fox", "red", "white")
OWL = Actor("owl", "blue", "scarf_cyan")


def shot(actor: Actor, place: str, layout: int = 0) -> Shot:
    return Shot(
        place=place,  # pyright: ignore[reportArgumentType]
        time="day",
        layout=layout,
        framing="wide",
        performances=(Performance(actor=actor, action="stands"),),
    )


def chosen(seen: tuple[Shot, ...], plan: tuple[Shot, ...]) -> set[int]:
    story = TheatreStory(global_caption="", captions=("",) * len(plan), cast=(FOX, OWL), shots=plan)
    policy = PerfectChoice(story)
    for one in seen:
        policy.watch(planned(one))
    candidates = [one for index in range(len(seen)) for one in tiny_memory(index, 33, 6).candidates(index)]
    frames = policy.choose(candidates, 6, NextShot(index=len(seen), caption=""), np.random.default_rng(0))
    return {frame.shot_index for frame in frames}


def test_a_shot_with_the_wrong_scarf_is_passed_over() -> None:
    plan = (shot(FOX, "meadow"), shot(OWL, "city"), shot(FOX, "beach"), shot(FOX, "forest"))
    wrong = shot(replace(FOX, scarf="scarf_orange"), "beach")
    assert chosen((plan[0], plan[1], wrong), plan) == {0}
    assert chosen(plan[:3], plan) == {0, 2}


def test_a_shot_with_the_wrong_layout_is_passed_over_where_only_its_set_is_wanted() -> None:
    plan = (shot(OWL, "meadow"), shot(OWL, "meadow"), shot(OWL, "city"), shot(FOX, "meadow"))
    wrong = shot(OWL, "meadow", 1)
    assert chosen((plan[0], wrong, plan[2]), plan) == {0}
