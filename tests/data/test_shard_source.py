"""Shots out of shards: what is read does not depend on threads, ranks or resuming, and damage is counted."""

import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shotstream.data.captions import CaptionStore, StoredText, StoredTextConfig, caption_store, open_shards
from shotstream.data.shard_source import (
    ShardsConfig,
    ShardSource,
    ShotSample,
    TooManyBadSamples,
    condition_sample,
    require_fit,
)
from shotstream.data.shards import ShardDirectory, ShardError
from shotstream.data.story_captions import ShardCaptions, ShardCaptionsConfig
from shotstream.streaming.shot_memory import ShotMemory
from tests.data.tiny import CLIPS, tiny_encoders, tiny_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("world") / "tiny")


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Iterator[Path]:
    """The same shards, to be damaged."""
    yield shutil.copytree(shards, tmp_path / "shards")
    open_shards.cache_clear()
    caption_store.cache_clear()


class Source(ShardSource):
    """All samples of a step, unless rows are asked for."""

    def read(self, step: int, rows: range | None = None) -> list[ShotSample]:
        return super().read(step, range(self.config.batch_size) if rows is None else rows)


def source(directory: Path, batch_size: int = 4, **settings: object) -> Source:
    given = {"num_workers": 0, "batch_size": batch_size, **settings}
    config = ShardsConfig(directory=str(directory), **given)  # pyright: ignore[reportArgumentType]
    return Source(config, tiny_encoders().dit, "published", seed=0)


def told(samples: list[ShotSample]) -> list[tuple[object, ...]]:
    """Everything that samples hold, to be compared."""
    return [
        (
            one.caption,
            one.latents.float().flatten().tolist(),
            [
                (
                    past.caption,
                    past.num_frames,
                    past.candidate_frames,
                    past.latents.float().flatten().tolist(),
                )
                for past in one.past
            ],
        )
        for one in samples
    ]


def damage(directory: Path, shard: int, member: str) -> None:
    """Flips a byte of a member of the shard's second clip."""
    opened = ShardDirectory(directory)
    sample = opened.record(shard).samples[1]
    path = directory / opened.shards[shard]["name"]
    content = bytearray(path.read_bytes())
    content[sample.members[member].offset + 8] ^= 1
    path.write_bytes(content)


def test_a_sample_is_what_was_encoded(shards: Path) -> None:
    opened = ShardDirectory(shards)
    read = source(shards)
    seen: set[str] = set()
    for step in range(read.sampler.steps_per_epoch):
        samples = read.read(step)
        assert len({one.latents.shape for one in samples}) == 1
        for one in samples:
            key, place = one.caption.split(".shot")
            shard, index = divmod(int(key), 3)
            stored = opened.tensors(shard, index, f"shot{place}.safetensors")["latents"]
            assert torch.equal(one.latents, stored[:, : one.latents.shape[1]])
            assert one.latents.shape[1] % 3 == 0
            assert [past.caption for past in one.past] == [f"{key}.shot{i}" for i in range(int(place))]
            for number, past in enumerate(one.past):
                alone = opened.tensors(shard, index, "context.safetensors")[f"shot{number}"]
                assert torch.equal(past.latents, alone) and len(past.candidate_frames) == len(alone)
            seen.add(one.caption)
    assert len(seen) == sum(len(shots) for shots in CLIPS)


def test_threads_read_what_a_step_reads_itself(shards: Path) -> None:
    alone, ahead = source(shards), source(shards, num_workers=3, read_ahead=2)
    try:
        for step in (0, 1, 2, 3, 4, 9, 1):
            assert told(ahead.read(step)) == told(alone.read(step))
    finally:
        ahead.close()


def test_a_resumed_run_reads_on_where_the_first_one_stopped(shards: Path) -> None:
    """Into the next epoch, too: an epoch has five steps."""
    whole = [told(batch) for batch in map(source(shards, num_workers=2).read, range(12))]
    resumed = source(shards, num_workers=2)
    assert [told(resumed.read(step)) for step in range(4, 12)] == whole[4:]


def test_ranks_read_together_what_one_reads_alone(shards: Path) -> None:
    whole = source(shards)
    ranks = [source(shards, num_workers=rank) for rank in range(2)]
    for step in range(7):
        parts = [told(rank.read(step, range(2 * i, 2 * i + 2))) for i, rank in enumerate(ranks)]
        assert parts[0] + parts[1] == told(whole.read(step))


def test_parts_of_a_batch_are_read_ahead_side_by_side(shards: Path) -> None:
    """The second part once threw away what had been read for the first part's next step."""
    read, whole = source(shards, num_workers=2, read_ahead=1), source(shards)
    for step in range(4):
        parts = [told(read.read(step, range(2 * part, 2 * part + 2))) for part in range(2)]
        assert parts[0] + parts[1] == told(whole.read(step))
        assert sorted(read._ahead) == [(step + 1, row) for row in range(4)]  # pyright: ignore[reportPrivateUsage]
    read.close()


def test_what_is_ahead_is_bounded(shards: Path) -> None:
    before = threading.active_count()
    read = source(shards, num_workers=2, read_ahead=1)
    for step in range(10):
        read.read(step)
        assert len(read._ahead) <= 4  # pyright: ignore[reportPrivateUsage]
    assert threading.active_count() <= before + 2
    read.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("member", ["json", "shot0.safetensors", "context.safetensors", "text.safetensors"])
def test_a_damaged_clip_is_named_counted_and_replaced_up_to_the_limit(
    copied: Path, member: str, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(copied, 1, member)
    lenient = source(copied, max_bad="1", num_workers=num_workers)
    good = source(copied, max_bad="1")
    for step in range(10):
        samples = lenient.read(step)
        assert len(samples) == 4 and told(samples) == told(good.read(step))
    assert len(lenient._bad) == 1  # pyright: ignore[reportPrivateUsage]
    warnings = [one for one in caplog.messages if "shard-000001.tar" in one and member in one]
    assert len(warnings) == 2, "once by each of the two sources"
    strict = source(copied, max_bad="0", num_workers=num_workers)
    with pytest.raises(TooManyBadSamples, match=r"shard-000001\.tar: .* is damaged; 1 damaged clips"):
        for step in range(5):
            strict.read(step)
    strict.close()
    lenient.close()


def test_lost_shards_end_the_run_and_never_loop(copied: Path) -> None:
    for shard in copied.glob("shard-*.tar"):
        shard.unlink()
    with pytest.raises(TooManyBadSamples, match="in a row"):
        source(copied, max_bad="100%", batch_size=1).read(0)
    open_shards.cache_clear()
    (copied / "shard-000000.json").write_text("{")
    with pytest.raises(TooManyBadSamples, match=r"shard-000000\.json"):
        source(copied, max_bad="2")
    assert len(source(copied, max_bad="3")._bad) == 3  # pyright: ignore[reportPrivateUsage]


def test_a_directory_without_an_index_is_refused(copied: Path) -> None:
    (copied / "index.json").unlink()
    with pytest.raises(ShardError, match="has finished"):
        source(copied)


def test_captions_are_embedded_as_the_text_encoder_does(shards: Path) -> None:
    encoders = tiny_encoders()
    store = CaptionStore(ShardDirectory(shards), memo_captions=2)
    told = json.loads(store.shards.read(0, 2, "json"))["shots"]
    names = [f"00000002.shot{place}" for place in range(len(told))]
    embedded = store.embed([*names, names[0], ""])
    want = encoders.text_encoder.encode([shot["composed"] for shot in told])
    torch.testing.assert_close(embedded[: len(told)], want, rtol=1e-3, atol=2e-3)  # half precision
    assert torch.equal(embedded[0], embedded[-2])
    assert "shot1:" in told[1]["composed"]


def test_the_memo_of_captions_is_bounded(shards: Path) -> None:
    store = CaptionStore(ShardDirectory(shards), memo_captions=2)
    for number in range(7):
        store.read(f"{number:08d}.shot0")
    assert len(store._memo) == 2  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("name", ["a fox", "00000099.shot0", "00000000.shot9", "00000000"])
def test_a_name_of_no_caption_is_refused(shards: Path, name: str) -> None:
    with pytest.raises(ShardError):
        CaptionStore(ShardDirectory(shards)).embed([name])


def test_dropped_captions_are_what_guidance_turns_away_from(shards: Path) -> None:
    from shotstream.data.encode import NEGATIVE_PROMPT

    free = CaptionStore(ShardDirectory(shards)).embed([""])
    want = tiny_encoders().text_encoder.encode([NEGATIVE_PROMPT])
    assert want.abs().sum() > 0
    torch.testing.assert_close(free, want, rtol=1e-3, atol=2e-3)


def test_a_shot_is_conditioned_on_the_shots_before_it(shards: Path) -> None:
    dit = tiny_encoders().dit
    for one in source(shards, batch_size=18).read(0):
        conditioning, rows = condition_sample(one, dit, "published")
        assert rows[-1] == one.caption and conditioning.target_caption.tolist() == [len(rows) - 1]
        if not one.past:
            assert conditioning.target_phase.tolist() == [1] and not conditioning.context.any()
            continue
        assert conditioning.target_phase.tolist() == [len(one.past)]
        last = conditioning.context[0, :, -1]
        assert any(torch.equal(last, latent.float()) for latent in one.past[-1].latents)
        shots = [int(rows[row].rpartition("shot")[2]) for row in conditioning.positions.caption_index[0]]
        assert shots == conditioning.positions.shot_phase[0].tolist()


def test_a_clip_with_fewer_context_latents_than_it_names_is_damaged(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, tensors = source(shards, max_bad="0"), ShardDirectory.tensors

    def short(self: ShardDirectory, shard: int, sample: int, member: str) -> dict[str, torch.Tensor]:
        found = tensors(self, shard, sample, member)
        return {name: value[1:] for name, value in found.items()} if "context" in member else found

    monkeypatch.setattr(ShardDirectory, "tensors", short)
    with pytest.raises(TooManyBadSamples, match=r"candidate frames with \d+ latents; 1 damaged clips"):
        for step in range(5):
            read.read(step)


def test_stories_are_captions_of_clips_that_are_long_enough(shards: Path) -> None:
    third = ShardCaptionsConfig(directory=str(shards), shot_weights=(0.0, 0.0, 1.0), max_latent_frames=7)
    stories = ShardCaptions(third, tiny_encoders().dit, seed=0)
    batch = stories.batch(0, range(60))
    assert {tuple(rows) for rows in batch.captions} == {
        tuple(f"{clip:08d}.shot{i}" for i in range(3)) for clip in (0, 2, 5)
    }
    assert batch.num_chunks == [2, 2, 2], "as long as it may be, in whole chunks"
    assert stories.batch(0, range(7, 9)).captions == batch.captions[7:9], "a story is the one of its place"
    assert stories.batch(1, range(60)).captions != batch.captions
    fifth = dataclasses.replace(third, shot_weights=(0.0, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"no clip in .* has 5 shots"):
        ShardCaptions(fifth, tiny_encoders().dit, seed=0).batch(0, range(1))


def test_shards_of_another_model_are_refused(shards: Path) -> None:
    form, dit = open_shards(str(shards)).form, tiny_encoders().dit
    require_fit(form, dit, "here")
    with pytest.raises(ValueError, match=r"text_shape.*\(6, 8\).*\(7, 8\)"):
        require_fit(form, dataclasses.replace(dit, text_length=7), "here")


def test_stored_text_opens_its_shards_late_and_has_no_weights(shards: Path) -> None:
    nowhere = StoredText(StoredTextConfig(directory="nowhere"))
    assert not nowhere.state_dict()
    with pytest.raises(ShardError, match="nowhere"):
        nowhere.embed([""])
    text = StoredText(StoredTextConfig(directory=str(shards)))
    assert text.embed(["00000000.shot1", ""]).shape == (2, 6, 8)
    assert nowhere.config == text.config


@pytest.mark.parametrize(
    ("policy", "seen", "phases", "target_phase"),
    [
        # Eight shots for six frames: the last six; or the first and the last five.
        ("published", [2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7], 8),
        ("theatre", [0, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5], 6),
    ],
)
def test_frames_beyond_the_budget_read_the_captions_of_their_own_shots(
    policy: str, seen: list[int], phases: list[int], target_phase: int
) -> None:
    """Rows once were taken from the beginning of the clip, which is right while the shots fit the budget."""
    dit = dataclasses.replace(tiny_encoders().dit, num_context_frames=6)
    past = tuple(
        ShotMemory(
            caption=f"00000000.shot{shot}",
            num_frames=9,
            candidate_frames=(0, 4, 8),
            latents=torch.full((3, 4, 2, 2), float(shot)),
        )
        for shot in range(8)
    )
    sample = ShotSample(latents=torch.zeros(4, 3, 2, 2), past=past, caption="00000000.shot8")
    conditioning, rows = condition_sample(sample, dit, policy)  # pyright: ignore[reportArgumentType]
    assert conditioning.context[0, 0, :, 0, 0].tolist() == seen
    read = [rows[row] for row in conditioning.positions.caption_index[0].tolist()]
    assert read == [f"00000000.shot{shot}" for shot in seen]
    assert rows[int(conditioning.target_caption)] == "00000000.shot8"
    assert conditioning.positions.shot_phase[0].tolist() == phases
    assert conditioning.target_phase.tolist() == [target_phase]
