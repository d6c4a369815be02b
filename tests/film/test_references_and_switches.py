"""Films of stories with references and switches: made, resumed, replayed and told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shotstream.film import (
    Film,
    FilmFiles,
    FilmPlan,
    FilmSettings,
    Progress,
    caption_warnings,
    count_differences,
    make_film,
    plan_film,
    read_film,
    read_replay,
    running_environment,
)
from shotstream.film.subtitles import told_parts
from shotstream.story import Reference, Shot, Steer, Story, read_story
from shotstream.streaming.pipeline import StreamingPipeline
from tests.streaming.tiny import tiny_pipeline

STORY = """
global_caption: A story about @scout in the forest by day.
references:
  - {id: scout, image: pictures/fox.png, caption: the red fox}
  - {id: den, image: pictures/den.png, caption: in the forest by day, role: place, shots: cited}
shots:
  - caption: "Wide shot: @scout walks to the left."
    num_chunks: 3
    then:
      - after: 2
        caption: "@scout sleeps."
  - caption: "Close-up of @scout, near @den."
    num_chunks: 2
"""


@pytest.fixture
def pipeline() -> StreamingPipeline:
    return tiny_pipeline(reads=True, num_context_frames=4)


@pytest.fixture
def story(tmp_path: Path) -> Story:
    (tmp_path / "pictures").mkdir()
    for name, level in (("fox", 90), ("den", 200)):
        Image.fromarray(np.full((64, 96, 3), level, np.uint8)).save(tmp_path / "pictures" / f"{name}.png")
    (tmp_path / "story.yaml").write_text(STORY)
    return read_story(tmp_path / "story.yaml")


def made(pipeline: StreamingPipeline, plan: FilmPlan, path: Path, stop_after: int | None = None) -> Film:
    def stop(progress: Progress) -> None:
        if progress.chunk_index is None and progress.shot_index == stop_after:
            raise KeyboardInterrupt

    settings = FilmSettings(files=FilmFiles(film=path))
    return make_film(pipeline, plan, running_environment(pipeline), settings, stop)


def test_a_replay_holds_all_that_a_film_depends_on_and_needs_no_file(
    pipeline: StreamingPipeline, story: Story, tmp_path: Path
) -> None:
    plan = plan_film(story, pipeline, seed=4)
    assert all(one.image.startswith("data:image/png;base64,") for one in plan.story.references)
    film = made(pipeline, plan, tmp_path / "one.mp4")
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    replay = read_replay(film.files.replay)
    assert replay.plan == plan
    again = made(pipeline, replay.plan, tmp_path / "two.mp4")
    assert count_differences(again, replay) == (0, "")
    steady = replace(plan.story.shots[0], then=())
    scout, den = plan.story.references
    for number, changed in enumerate(
        (
            replace(plan.story, shots=(steady, plan.story.shots[1])),
            replace(plan.story, references=(scout, replace(den, image=scout.image))),
        )
    ):
        other = made(pipeline, replace(plan, story=changed), tmp_path / f"other{number}.mp4")
        assert count_differences(other, replay)[0] > 0


def test_an_interrupted_film_goes_on_with_its_references(
    pipeline: StreamingPipeline, story: Story, tmp_path: Path
) -> None:
    plan = plan_film(story, pipeline, seed=4)
    whole = made(pipeline, plan, tmp_path / "whole.mp4")
    with pytest.raises(KeyboardInterrupt):
        made(pipeline, plan, tmp_path / "cut.mp4", stop_after=1)
    resumed = made(pipeline, plan, tmp_path / "cut.mp4")
    assert resumed.num_resumed_shots == 1
    assert count_differences(resumed, whole.replay) == (0, "")


def test_subtitles_change_where_the_shot_turns(
    pipeline: StreamingPipeline, story: Story, tmp_path: Path
) -> None:
    film = made(pipeline, plan_film(story, pipeline, seed=4), tmp_path / "film.mp4")
    entries = film.files.subtitles.read_text().split("\n\n")
    assert [entry.strip().splitlines()[1:] for entry in entries] == [
        ["00:00:00,000 --> 00:00:01,750", "Wide shot: @scout walks to the left."],
        ["00:00:01,750 --> 00:00:02,750", "@scout sleeps."],
        ["00:00:02,750 --> 00:00:04,500", "Close-up of @scout, near @den."],
    ]


def test_a_shot_that_was_cut_before_it_turns_has_one_caption() -> None:
    shot = Shot(caption="a", num_chunks=3, then=(Steer(caption="b", chunk_index=2),))
    frames_of = tiny_pipeline().geometry.shot_num_frames
    assert told_parts([shot, shot], [33, 21], frames_of) == (["a", "b", "a"], [21, 12, 21])


def test_what_is_understood_is_told_for_every_caption_of_a_shot(
    pipeline: StreamingPipeline, story: Story
) -> None:
    first, second = read_film(story, pipeline, 4)
    assert [[one.action for one in part.reading.actors] for part in first] == [["walks"], ["sleeps"]]
    assert [part.reading.framing for part in first] == ["wide", "wide"] and len(second) == 1
    entering = replace(story.shots[0], then=(Steer(caption="A dragon waves.", chunk_index=1),))
    warnings = caption_warnings(replace(story, shots=(entering, story.shots[1])), pipeline)
    assert any("dragon" in warning and "shot 1" in warning for warning in warnings)


def test_what_cannot_be_is_refused_with_the_shot(pipeline: StreamingPipeline, story: Story) -> None:
    many = tuple(replace(story.references[0], id=f"r{number}") for number in range(7))
    plain = replace(story, global_caption="A fox.", shots=(Shot(caption="It runs."),), references=many)
    with pytest.raises(ValueError, match=r"shot 1: 7 references \(@r0, .*\) for 3 places in its context"):
        plan_film(plain, pipeline, seed=0)
    with pytest.raises(ValueError, match="shot 1: the caption cites @nobody"):
        plan_film(replace(plain, references=(), shots=(Shot(caption="@nobody runs."),)), pipeline, seed=0)
    with pytest.raises(ValueError, match="global_caption: the caption cites @nobody"):
        plan_film(replace(plain, references=(), global_caption="@nobody"), pipeline, seed=0)
    steered = Shot(caption="It runs.", then=(Steer(caption="It naps.", chunk_index=2),))
    with pytest.raises(ValueError, match="goes on after 2 chunks, and the shot has 2"):
        plan_film(replace(plain, references=(), shots=(steered,)), pipeline, seed=0)
    missing = Reference(id="a", image="none.png", caption="a fox")
    with pytest.raises(ValueError, match=r"none.png: No such file"):
        plan_film(replace(plain, references=(missing,)), pipeline, seed=0)


def test_a_picture_that_is_not_of_the_world_is_told_once(pipeline: StreamingPipeline, story: Story) -> None:
    """The tiny codec draws no picture as it is."""
    warnings = [one for one in caption_warnings(story, pipeline) if "not one of this model's world" in one]
    assert ["@scout" in warnings[0], "@den" in warnings[1], len(warnings)] == [True, True, 2]


def test_stories_without_either_have_the_plans_of_before(pipeline: StreamingPipeline) -> None:
    plain = Story(global_caption="A fox.", shots=(Shot(caption="It runs."),))
    document = json.dumps(plan_film(plain, pipeline, seed=0).to_document())
    assert "references" not in document and "then" not in document
