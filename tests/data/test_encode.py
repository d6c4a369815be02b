"""Encoding clips into shards: the same bytes however it is divided, bad clips counted, damage found."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from shotstream.data.checks import bad_allowed
from shotstream.data.encode import EncodeConfig, EncodeReport, TooManyBadClips, encode_manifest
from shotstream.data.shard_check import check_shards
from shotstream.data.shards import CONTEXT, ShardDirectory, ShardError
from shotstream.manifest import read_manifest
from shotstream.streaming.loading import Encoders, load_encoders
from shotstream.theatre.dataset import CSV_NAME, DatasetConfig, write_dataset
from shotstream.video.video_io import read_frames

CONFIG = EncodeConfig(clips_per_shard=2, num_workers=0)


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return load_encoders("theatre", "cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_dataset(directory, DatasetConfig(num_stories=5, num_shots=2, num_chunks=1, seed=3))
    return directory / CSV_NAME


@pytest.fixture(scope="module")
def encoded(manifest: Path, encoders: Encoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoded") / "shards"
    report = encode_manifest(manifest, encoders, directory, CONFIG)
    assert (report.num_encoded, report.num_clips, report.is_complete) == (3, 5, True)
    return directory


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.mark.slow
def test_processes_write_together_what_one_writes_alone(
    manifest: Path, encoders: Encoders, encoded: Path, tmp_path: Path
) -> None:
    reports: list[EncodeReport] = []
    for process in (1, 0):
        config = dataclasses.replace(CONFIG, process=process, num_processes=2, num_workers=1)
        reports.append(encode_manifest(manifest, encoders, tmp_path, config))
    assert [report.num_encoded for report in reports] == [1, 2]
    assert [report.is_complete for report in reports] == [False, True]
    assert digests(tmp_path) == digests(encoded)


def test_what_of_a_manifest_was_not_read_is_told_once_and_changes_nothing(
    manifest: Path, encoders: Encoders, encoded: Path, tmp_path: Path
) -> None:
    shutil.copytree(manifest.parent, tmp_path / "world")
    for captions in (tmp_path / "world").glob("*.json"):
        captions.write_text(captions.read_text().replace("{", '{"video_path": "demo/data/a.mp4",', 1))
    told: list[str] = []
    copy = tmp_path / "world" / manifest.name
    report = encode_manifest(copy, encoders, encoded, CONFIG, warn=told.append)
    assert (report.num_encoded, report.num_kept) == (0, 3), "the same clips as before"
    assert told == [f"{copy}: keys that are not read: 'video_path'"]


def test_a_call_that_was_stopped_goes_on_after_the_last_whole_shard(
    manifest: Path, encoders: Encoders, encoded: Path, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        encode_manifest(manifest, encoders, tmp_path, CONFIG, stop)
    with pytest.raises(ShardError, match="has finished"):
        ShardDirectory(tmp_path)
    report = encode_manifest(manifest, encoders, tmp_path, CONFIG)
    assert (report.num_kept, report.num_encoded) == (1, 2)
    assert digests(tmp_path) == digests(encoded)


def test_latents_are_the_codecs_and_context_frames_are_encoded_alone(
    manifest: Path, encoders: Encoders, encoded: Path
) -> None:
    clip = next(iter(read_manifest(manifest)))
    frames = read_frames(clip.video)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    first, last = clip.shot_ranges[1]
    shards = ShardDirectory(encoded)
    found = shards.tensors(0, 0, "shot1.safetensors")["latents"]
    num_frames = encoders.codec.geometry.num_frames(found.shape[1])
    assert num_frames <= last - first
    want = encoders.codec.encode(pixels[:, :, first : first + num_frames])[0]
    assert torch.allclose(found.float(), want, atol=2e-3)
    alone = encoders.codec.encode(pixels[:, :, first : first + 1])[0, :, 0]
    assert torch.allclose(shards.tensors(0, 0, CONTEXT)["shot1"][0].float(), alone, atol=2e-3)


def test_a_bad_clip_is_named_counted_and_left_out_up_to_the_limit(encoders: Encoders, tmp_path: Path) -> None:
    world = tmp_path / "world"
    write_dataset(world, DatasetConfig(num_stories=2, num_shots=2, num_chunks=1, seed=4))
    bad = sorted(world.glob("*.mp4"))[1]
    bad.write_bytes(b"this is no video")
    source = world / CSV_NAME
    with pytest.raises(TooManyBadClips, match=bad.name):
        encode_manifest(source, encoders, tmp_path / "strict", CONFIG)
    report = encode_manifest(source, encoders, tmp_path / "lenient", dataclasses.replace(CONFIG, max_bad="1"))
    assert report.num_clips == 1 and [Path(video).name for video, _ in report.bad_clips] == [bad.name]
    assert not any(finding.damage for finding in check_shards(tmp_path / "lenient"))


def test_other_settings_or_a_directory_of_other_things_are_refused(
    manifest: Path, encoders: Encoders, encoded: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="another dtype"):
        encode_manifest(manifest, encoders, encoded, dataclasses.replace(CONFIG, dtype="bfloat16"))
    (tmp_path / "novel.txt").write_text("It was a dark and stormy night.")
    with pytest.raises(ValueError, match="not empty"):
        encode_manifest(manifest, encoders, tmp_path, CONFIG)


def test_a_flipped_byte_is_found(encoded: Path, tmp_path: Path) -> None:
    for path in encoded.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "shard-000001.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    damaged = [finding.name for finding in check_shards(tmp_path) if finding.damage]
    assert damaged == ["shard-000001.tar"]


@pytest.mark.parametrize(("text", "clips", "allowed"), [("1%", 250, 2), ("3", 10, 3), ("0", 10, 0)])
def test_limits_are_counts_or_shares(text: str, clips: int, allowed: int) -> None:
    assert bad_allowed(text, clips) == allowed


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "1.5"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="max_bad"):
        bad_allowed(text, 10)
