"""The reader: one rule per example; what it does not know is told; a settled shot reads as itself."""

import time

import numpy as np
import pytest

from shotstream.theatre.questions import ANSWERS, QUESTIONS
from shotstream.theatre.reading.reader import ActorReading, ShotReading, read_shot
from shotstream.theatre.reading.settled import answers_of, described, settle
from shotstream.theatre.world import TheatreStory, sample_story


def said(shot: str, global_caption: str = "", *earlier: str) -> list[str]:
    """Returns each actor of a shot as words."""
    actors = read_shot(shot, global_caption, earlier).actors
    return [
        " ".join(filter(None, (actor.colour, actor.species, actor.action, actor.staging))) for actor in actors
    ]


CAST = "Bruno, the grey bear, and Rosa, a red fox."


@pytest.mark.parametrize(
    ("shot", "global_caption", "expected"),
    [
        ("Bruno waves.", CAST, ["grey bear waves"]),
        ("bruno waves", "bruno is a grey bear", ["grey bear waves"]),
        ("He naps, she dances.", "Hugo, a blue frog; Ada, a red owl", ["blue frog sleeps", "red owl dances"]),
        ("They are both napping.", CAST, ["grey bear sleeps", "red fox sleeps"]),
        ("The other one waves.", CAST, ["red fox waves"]),
        ("Rosa jumps and so does Bruno.", CAST, ["red fox jumps", "grey bear jumps"]),
        ("Rosa waves at Bruno.", CAST, ["red fox waves", "grey bear"]),
        ("Rosa races Bruno to the left.", CAST, ["red fox walks walks left", "grey bear walks"]),
        ("Rosa dances with Bruno.", CAST, ["red fox dances", "grey bear dances"]),
        ("Asleep on the left: the bear.", CAST, ["grey bear sleeps left"]),
        ("Nothing moves. The bear doesn't move.", CAST, ["grey bear stands"]),
        ("The bear stopped dancing.", CAST, ["grey bear stands"]),
        ("The bear cannot stop dancing.", CAST, ["grey bear dances"]),
        ("The owl has fallen asleep.", "A blue owl.", ["blue owl sleeps"]),
        ("The owl will dance.", "A blue owl.", ["blue owl dances"]),
        ("The owl ran from left to right.", "A blue owl.", ["blue owl walks walks right"]),
        ("Two frogs, one red and one green, wave.", "", ["red frog waves", "green frog waves"]),
        ("The yellow frog and the purple bear race.", "", ["yellow frog walks", "purple bear walks"]),
        ("A sleeping bear and a dancing frog.", "", ["bear sleeps", "frog dances"]),
        ("a blu foxx jumsp", "", ["blue fox jumps"]),
        ("Wide shot at night.", CAST, ["grey bear", "red fox"]),
        ("Sleeping under the stars.", "A red owl.", ["red owl sleeps"]),
        ("She waves.", "", ["waves"]),
        ("He waves, she doesn't.", "Jack, a red fox, and Anna, a blue owl.", ["red fox waves", "blue owl"]),
        ("May dances.", "Zed, a blue robot, and May, a red frog.", ["red frog dances"]),
        ("It dances like a bear.", "An owl, not red but green.", ["green owl dances"]),
    ],
)  # fmt: skip
def test_who_does_what(shot: str, global_caption: str, expected: list[str]) -> None:
    assert said(shot, global_caption) == expected


def test_a_name_of_an_earlier_shot_is_known_and_its_place_stays() -> None:
    earlier = "Zed, a yellow robot, walks on the beach at sunset."
    assert said("Zed waves.", "", earlier) == ["yellow robot waves"]
    reading = read_shot("Zed waves.", "", (earlier,))
    assert (reading.place, reading.time) == ("beach", "sunset")
    assert read_shot("Zed waves.", "A day in the city.", (earlier,)).place == "city"


@pytest.mark.parametrize(
    ("shot", "place", "time", "framing", "camera"),
    [
        ("Downtown at midnight, seen from afar.", "city", "night", "wide", None),
        ("EXT. BEACH - DAY. CU.", "beach", "day", "close-up", None),
        ("Dawn, peaks, waist up; the camera drifts left.", "mountains", "sunset", "medium", "pans left"),
        ("From the forest to the seaside.", "beach", None, None, None),
        ("A mountain meadow; the camera stays still.", "meadow", None, None, "still"),
        ("One day, among the trees.", "forest", None, None, None),
        ("The sun slips behind the dunes.", "beach", "sunset", None, None),
        ("A wide smile.", None, None, None, None),
        ("8 pm in town.", "city", "night", None, None),
        ("An owl, white as snow, at 17:30.", None, "sunset", None, None),
    ],
)  # fmt: skip
def test_where_and_when(
    shot: str, place: str | None, time: str | None, framing: str | None, camera: str | None
) -> None:
    reading = read_shot(shot)
    assert (reading.place, reading.time, reading.framing, reading.camera) == (place, time, framing, camera)


def test_what_the_world_does_not_have_is_told_with_the_nearest_thing() -> None:
    reading = read_shot("A detective cat in Tokyo waves to a dragon by the castle in the rain.")
    told = [str(word) for word in reading.unknown]
    assert told == [
        "detective: robot?",
        "cat: fox?",
        "tokyo: city?",
        "dragon: frog?",
        "castle: city?",
        "rain",
    ]
    assert reading.actors == ()
    assert read_shot("Snow is falling in the forest.").unknown[0].word == "snow"
    assert read_shot("The fox waves.", "A dragon and a red fox in a meadow.").unknown[0].word == "dragon"


def stories(held_out: bool) -> list[TheatreStory]:
    rng = np.random.default_rng(5)
    return [sample_story(rng, 5, held_out=held_out) for _ in range(40)]


@pytest.mark.parametrize("held_out", [False, True])
def test_every_drawn_caption_is_read_as_it_is_drawn_and_in_the_worlds_own_words_again(held_out: bool) -> None:
    for story in stories(held_out):
        for shot, caption in zip(story.shots, story.captions, strict=True):
            actors = tuple(
                ActorReading(
                    p.actor.species,
                    p.actor.colour,
                    p.action,
                    f"walks {p.facing}" if p.action == "walks" else p.spot,
                )
                for p in shot.performances
            )
            drawn = ShotReading(shot.place, shot.time, shot.framing, shot.camera, actors)
            settled = settle(read_shot(caption, story.global_caption), 3)
            assert settled.reading == drawn and not settled.notes
            assert settle(read_shot(settled.caption), 4).reading == drawn


def test_two_of_a_kind_are_two_in_the_worlds_own_words() -> None:
    settled = settle(read_shot("Two frogs dance, both green, downtown at noon."), 0)
    assert settled.caption.endswith(
        "the green frog dances on the left and another green frog dances on the right."
    )
    assert settle(read_shot(settled.caption), 0).reading == settled.reading


@pytest.mark.parametrize(
    "text", ["a" * 20_000, "the red fox waves and " * 800, "xqzzk " * 1500, "Ab, " * 1500]
)
def test_a_long_text_is_read_in_time(text: str) -> None:
    begun = time.process_time()
    read_shot(text)
    assert time.process_time() - begun < 5


def test_answers_are_indices_of_the_questions_and_not_said_is_the_first() -> None:
    reading = read_shot("Close-up: the blue owl waves at night.")
    kinds = [kind for kind, _ in QUESTIONS]
    named = {
        kind: ANSWERS[kind][index - 1]
        for kind, index in zip(kinds[:8], answers_of(reading)[:8], strict=True)
        if index
    }
    assert named == {
        "time": "night",
        "framing": "close-up",
        "species": "owl",
        "colour": "blue",
        "action": "waves",
    }
    assert answers_of(reading)[8:] == (0,) * 4
    assert described(reading) == "Close-up at night: the blue owl waves."


def test_what_is_left_open_is_chosen_by_the_seed_and_told() -> None:
    shots = [settle(read_shot(caption), seed=11) for caption in ("A fox waves.", "A fox sleeps.")]
    first, second = (shot.reading for shot in shots)
    assert first.place == second.place and first.time == second.time
    assert first.actors[0].colour == second.actors[0].colour is not None
    assert "the seed chose" in shots[0].notes[0] and first.place in shots[0].notes[0]
    alone, together = (
        settle(read_shot(shot, "Ivy, a rabbit, and Bo, a bear."), 7).reading.actors
        for shot in ("Ivy sleeps.", "Bo and Ivy sleep.")
    )
    assert alone[0].colour == together[1].colour, "whoever else is in the shot"
    places = {settle(read_shot("A fox waves."), seed=seed).reading.place for seed in range(40)}
    assert len(places) == 5


@pytest.mark.parametrize(
    ("caption", "shown", "told"),
    [
        ("Close-up of a red fox and a blue owl by day in the city.", "Medium shot", "a close-up shows one"),
        ("Wide shot, city, day: a red fox waves; the camera pans left.", "red fox waves", "pans only"),
        ("A dragon waves in the city by day.", "frog waves", "the world has no dragon: a frog plays it"),
        ("Day, city: a red fox, a blue owl and a green frog dance.", "red fox dances", "1 more"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_changed_and_told(caption: str, shown: str, told: str) -> None:
    settled = settle(read_shot(caption), 0)
    assert shown in settled.caption
    assert any(told in note for note in settled.notes)


def test_an_actor_on_the_right_is_drawn_there() -> None:
    reading = settle(
        read_shot("The red fox is on the right and the blue owl on the left, by day, city."), 0
    ).reading
    assert [(a.species, a.staging) for a in reading.actors] == [("owl", "left"), ("fox", "right")]
