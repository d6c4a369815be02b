"""What captions say, as answers: equal to the plan of the shot, or "not said"."""

import numpy as np

from shotstream.story import compose_caption
from shotstream.theatre.questions import ANSWERS, NOT_SAID, QUESTIONS, answers
from shotstream.theatre.world import sample_story


def told(text: str, right: tuple[int, ...]) -> list[str]:
    """Answers in words."""
    assert len(right) == len(QUESTIONS), text
    return [
        "" if one == NOT_SAID else ANSWERS[kind][one - 1]
        for (kind, _), one in zip(QUESTIONS, right, strict=True)
    ]


def test_every_answer_fits_its_question_and_is_in_the_plan() -> None:
    for number in range(60):
        story = sample_story(np.random.default_rng(number), 3)
        for index, shot in enumerate(story.shots):
            text = compose_caption(story.global_caption, story.captions[index], index, style="plain")
            words = told(text, answers(shot, text))
            assert words[:4] == [shot.place, shot.time, shot.framing, shot.camera]
            for actor, performance in enumerate(shot.performances):
                species, colour, action, staging = words[4 + 4 * actor : 8 + 4 * actor]
                assert (species, colour) == (performance.actor.species, performance.actor.colour)
                assert action == performance.action
                walks = f"walks {performance.facing}"
                assert staging == (walks if performance.action == "walks" else performance.spot)
            if len(shot.performances) == 1:
                assert words[8:] == [""] * 4


def test_what_a_caption_leaves_open_is_not_said() -> None:
    story = sample_story(np.random.default_rng(3), 1)
    shot = story.shots[0]
    actor = shot.performances[0].actor
    words = told("", answers(shot, f"close-up: the {actor.species} waves."))
    assert words[0] == words[1] == words[5] == ""
    assert words[4] == actor.species
