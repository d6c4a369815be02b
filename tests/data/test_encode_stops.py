"""Encoding that is stopped: by a person, by too many bad clips, or between any two renames."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from shotstream.cli import main
from shotstream.data import encode
from shotstream.data.encode import EncodeConfig, encode_manifest
from shotstream.data.shard_check import check_shards
from shotstream.data.shards import FORM_NAME, ShardDirectory
from shotstream.manifest import Clip, read_manifest, write_manifest
from shotstream.story import Shot, Story
from shotstream.streaming import loading
from shotstream.video.video_io import write_lossless
from tests.data.tiny import SIZE, tiny_encoders, tiny_shards
from tests.params import first

CLIPS = ((9, 13), (21,), (9, 9), (13,), (9,))
CONFIG = EncodeConfig(clips_per_shard=1, num_workers=0, max_bad="1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, a manifest and whole shards of one clip each."""
    directory = tmp_path_factory.mktemp("world") / "tiny"
    tiny_shards(directory, CLIPS, clips_per_shard=1)
    return directory


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if not path.name.startswith(".part.")
    }


class Killed(BaseException):
    pass


@pytest.mark.parametrize("num_renames", first(4, [2, 3, 7, 12, 0, 1, 4, 5, 6, 8, 9, 10, 11]))
def test_a_kill_between_any_two_renames_loses_nothing_that_was_whole(
    world: Path, tmp_path: Path, num_renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 renames: embeddings, form, five shards and their records, the index. A kill cleans up nothing."""
    rename, left = Path.replace, num_renames

    def dying(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return rename(self, target)

    def kept(self: Path, missing_ok: bool = False) -> None:
        del self, missing_ok

    with monkeypatch.context() as dead, pytest.raises(Killed):
        dead.setattr(Path, "replace", dying)
        dead.setattr(Path, "unlink", kept)
        encode_manifest(world / "clips.jsonl", tiny_encoders(), tmp_path / "shards", CONFIG)
    assert (tmp_path / "shards" / FORM_NAME).exists() == (num_renames >= 2)
    report = encode_manifest(world / "clips.jsonl", tiny_encoders(), tmp_path / "shards", CONFIG)
    assert report.num_kept == max(num_renames - 2, 0) // 2
    assert report.is_complete and digests(tmp_path / "shards") == digests(world / "shards")


@pytest.mark.parametrize(
    ("stop_at", "said"), [(1, "nothing was made"), (4, "3 complete shards are kept in ")]
)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    world: Path,
    tmp_path: Path,
    stop_at: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encode_clip, clips = encode.encode_clip, iter(range(1, 99))

    def pressed(*given: object) -> object:
        if next(clips) == stop_at:
            raise KeyboardInterrupt
        return encode_clip(*given)  # pyright: ignore[reportArgumentType]

    def load(model: str, device: str) -> object:
        del model, device
        return tiny_encoders()

    monkeypatch.setattr(loading, "load_encoders", load)
    command = ["data", "encode", str(world / "clips.jsonl"), "-o", str(tmp_path / "out"), "--shard-size", "1"]
    with monkeypatch.context() as key, pytest.raises(SystemExit) as ended:
        key.setattr(encode, "encode_clip", pressed)
        main(command)
    assert ended.value.code == 130
    assert said in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().err.split())
    assert f"{6 - stop_at} shards made, {stop_at - 1} were there" in told
    assert digests(tmp_path / "out") == digests(world / "shards")


def test_each_bad_clip_is_named_once_with_its_reason(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = list(read_manifest(world / "clips.jsonl"))
    for name in ("no-video.mp4", "no-file.mp4", "short.mkv"):
        clips.append(dataclasses.replace(clips[1], video=tmp_path / name))
    (tmp_path / "no-video.mp4").write_bytes(b"this is no video")
    write_lossless(tmp_path / "short.mkv", np.zeros((20, SIZE.height, SIZE.width, 3), np.uint8), 8)
    write_manifest(tmp_path / "clips.jsonl", clips)

    def load(model: str, device: str) -> object:
        del model, device
        return tiny_encoders()

    monkeypatch.setattr(loading, "load_encoders", load)
    command = ["data", "encode", str(tmp_path / "clips.jsonl"), "-o", str(tmp_path / "out"), "--max-bad"]
    reasons = {
        "no-video.mp4": "not a readable video: it is damaged, cut off, or in no known format",
        "no-file.mp4": "not a readable video: there is no such file",
        "short.mkv": "ends at frame 20, and its shots at frame 21",
    }
    for allowed, named, code in (("2", 3, 1), ("3", 3, 0)):
        with pytest.raises(SystemExit) as ended:
            main([*command, allowed])
        told = " ".join(capsys.readouterr().err.split())
        assert ended.value.code == code
        for name, reason in list(reasons.items())[:named]:
            assert told.count(name) == 1, told
            assert f"{name}: {reason}" in told
    assert "3 bad clips" in told


def test_context_frames_are_those_that_any_policy_may_ask_for(tmp_path: Path) -> None:
    """Of the budget of 3, a first shot may be asked for 3, a second for 2, later ones for 1."""
    directory = tiny_shards(tmp_path / "tiny", ((9, 9, 9, 45), (45, 9, 9, 9)), clips_per_shard=2)
    shards = ShardDirectory(directory)
    told = [json.loads(shards.read(0, sample, "json"))["shots"] for sample in range(2)]
    assert [[shot["num_frames"] for shot in clip] for clip in told] == [[9, 9, 9, 33], [33, 9, 9, 9]]
    first, second = ([shot["context_frames"] for shot in clip] for clip in told)
    assert first == [[0, 4, 8], [0, 8], [0], [0]]
    assert second == [[0, 16, 32], [0, 8], [0], [0]]


def test_places_count_the_shots_that_are_kept(tmp_path: Path) -> None:
    """The first shot is too short: the second takes its place, and keeps its own caption and range."""
    shards = ShardDirectory(tiny_shards(tmp_path / "tiny", ((8, 9, 13),), clips_per_shard=1))
    told = json.loads(shards.read(0, 0, "json"))["shots"]
    assert [(shot["shot_index"], shot["frame_range"]) for shot in told] == [(1, [8, 17]), (2, [17, 30])]
    (clip,) = read_manifest(tmp_path / "tiny" / "clips.jsonl")
    assert [shot["caption"] for shot in told] == [shot.caption for shot in clip.story.shots[1:]]
    assert [len(shot["context_frames"]) for shot in told] == [3, 2]
    assert shards.shards[0]["num_short_shots"] == 1


def test_what_does_not_fit_half_precision_is_a_bad_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "a.mkv"
    write_lossless(video, np.zeros((9, SIZE.height, SIZE.width, 3), np.uint8), 8)
    story = Story(global_caption="a", shots=(Shot(caption="b"),))
    write_manifest(tmp_path / "clips.jsonl", [Clip(video=video, story=story, shot_ranges=((0, 9),))] * 2)
    encoders = tiny_encoders()
    whole, calls = encoders.codec.encode, iter(range(99))

    def huge(pixels: object) -> object:
        return whole(pixels) * (1e9 if next(calls) == 0 else 1)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(encoders.codec, "encode", huge)
    config = dataclasses.replace(CONFIG, clips_per_shard=2)
    report = encode_manifest(tmp_path / "clips.jsonl", encoders, tmp_path / "shards", config)
    assert report.bad_clips == ((str(video), "its latents are not finite in float16"),)
    assert not any(finding.damage for finding in check_shards(tmp_path / "shards"))
