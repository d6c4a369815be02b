from pathlib import Path

import pytest

from shotstream.manifest import Clip, ManifestError, read_manifest, write_manifest, write_published
from shotstream.story import Shot, Story

STORY = Story(
    global_caption='A "red" fox, at dusk.', shots=(Shot(caption="It sits."), Shot(caption="Él corre."))
)


def clips(tmp_path: Path) -> list[Clip]:
    return [
        Clip(video=tmp_path / "a.mp4", story=STORY, shot_ranges=((0, 33), (33, 66))),
        Clip(video=tmp_path / "b.mp4", story=STORY, shot_ranges=((5, 21),)),
    ]


@pytest.mark.parametrize("write", [write_manifest, write_published])
def test_both_forms_return_what_was_written(tmp_path: Path, write: object) -> None:
    path = tmp_path / ("clips.csv" if write is write_published else "clips.jsonl")
    write(path, clips(tmp_path))  # type: ignore[operator]
    found = list(read_manifest(path))
    assert [(clip.video, clip.shot_ranges) for clip in found] == [
        (clip.video, clip.shot_ranges) for clip in clips(tmp_path)
    ]
    assert [clip.story.shots for clip in found] == [STORY.shots] * 2
    assert [clip.story.global_caption for clip in found] == [STORY.global_caption] * 2


def test_a_moved_directory_still_reads(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    write_published(before / "clips.csv", clips(before))
    before.rename(after)
    assert [clip.video for clip in read_manifest(after / "clips.csv")] == [after / "a.mp4", after / "b.mp4"]


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ("[[0, 9], [8, 20]]", "overlaps"),
        ("[[9, 9]]", "empty"),
        ("[[0, 9], [9, 20], [20, 30]]", "3 frame ranges for 2"),
        ("[]", "0 frame ranges"),
        ("[[0, 9.5]]", "write \\[\\[first"),
        ("[[0, 9, 12]]", "write \\[\\[first"),
        ("7", "write \\[\\[first"),
        ("[[0, 9]", "no list of frame ranges"),
        ("__import__('os')", "malformed"),
    ],
)
def test_wrong_frame_ranges_are_refused_with_file_and_line(tmp_path: Path, ranges: str, reason: str) -> None:
    write_published(tmp_path / "clips.csv", clips(tmp_path))
    path = tmp_path / "wrong.csv"
    path.write_text(f'json_path,video_path,frame_number\na.json,a.mp4,"{ranges}"\n')
    with pytest.raises(ManifestError, match=f"wrong.csv: line 2: .*{reason}"):
        list(read_manifest(path))


def test_missing_columns_keys_and_captions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("json_path,frame_number\n")
    with pytest.raises(ManifestError, match="'video_path' is missing"):
        list(read_manifest(path))
    path.write_text('json_path,video_path,frame_number\nabsent.json,a.mp4,"[[0, 9]]"\n')
    with pytest.raises(ManifestError, match=r"absent.json: cannot be read"):
        list(read_manifest(path))
    lines = tmp_path / "clips.jsonl"
    lines.write_text('{"format": "shotstream-clip/1", "story": {}}\n')
    with pytest.raises(ManifestError, match="line 1: 'video' is missing"):
        list(read_manifest(lines))
    lines.write_text("[]\n")
    with pytest.raises(ManifestError, match="line 1: no entry of the format"):
        list(read_manifest(lines))
