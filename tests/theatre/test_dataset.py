"""Data sets: what other trainers read says the same as what was rendered."""

import json
from pathlib import Path

import numpy as np
import pytest

from shotstream.manifest import read_manifest
from shotstream.theatre.dataset import CSV_NAME, MANIFEST_NAME, TRUTH_NAME, DatasetConfig, write_dataset
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import render
from shotstream.theatre.world import sample_story
from shotstream.video.video_io import read_frames

_CONFIG = DatasetConfig(num_stories=2, num_shots=3, num_chunks=1, seed=5, scale=2)


def test_manifests_name_videos_captions_and_exact_cuts(tmp_path: Path) -> None:
    write_dataset(tmp_path, _CONFIG)
    for name in (CSV_NAME, MANIFEST_NAME):
        clips = list(read_manifest(tmp_path / name))
        assert len(clips) == 2
        for number, clip in enumerate(clips):
            story = sample_story(np.random.default_rng((5, number)), 3)
            assert clip.story.global_caption == story.global_caption
            assert tuple(shot.caption for shot in clip.story.shots) == story.captions
            assert clip.shot_ranges == ((0, 9), (9, 18), (18, 27))
            assert clip.num_frames == 27
            frames = read_frames(clip.video)
            truth = np.concatenate([to_rgb(render(shot, 9)) for shot in story.shots])
            truth = truth.repeat(2, axis=1).repeat(2, axis=2)
            # H.264 is lossy; a cut one frame off would change much of the picture by far more.
            assert np.abs(frames.astype(int) - truth.astype(int)).mean() < 6


def test_the_truth_holds_what_captions_do_not_tell(tmp_path: Path) -> None:
    write_dataset(tmp_path, _CONFIG)
    lines = [json.loads(line) for line in (tmp_path / TRUTH_NAME).read_text().splitlines()]
    story = sample_story(np.random.default_rng((5, 1)), 3)
    assert lines[1]["video"] == "000001.mp4"
    assert lines[1]["cast"][0]["scarf"] == story.cast[0].scarf
    assert [shot["layout"] for shot in lines[1]["shots"]] == [shot.layout for shot in story.shots]


def test_nothing_is_written_into_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        write_dataset(tmp_path, _CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_stories is 0"):
        DatasetConfig(num_stories=0)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_data_set_that_is_ended_leaves_nothing_and_the_same_command_begins_anew(
    tmp_path: Path, end: BaseException
) -> None:
    """It said "nothing was made" over films that were there, and the next try was refused for them."""

    def stop(num_done: int, _: int) -> None:
        assert (tmp_path / f"{num_done - 1:06d}.mp4").exists()
        raise end

    with pytest.raises(type(end)):
        write_dataset(tmp_path, _CONFIG, stop)
    assert list(tmp_path.iterdir()) == []
    write_dataset(tmp_path, _CONFIG)
    assert (tmp_path / CSV_NAME).exists()
