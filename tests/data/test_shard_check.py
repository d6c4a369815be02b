"""`data check` reads every file: whatever was changed since it was written is found, in whichever file."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream.cli import main
from shotstream.data.captions import CaptionStore, caption_store, open_shards
from shotstream.data.shard_check import check_shards
from shotstream.data.shards import (
    FORM_NAME,
    INDEX_NAME,
    UNCONDITIONAL_NAME,
    ShardDirectory,
    ShardError,
    document_bytes,
)
from tests.data.tiny import tiny_shards

CLIPS = ((9, 13, 30), (21, 21), (9, 9, 9, 45))
FILES = (
    INDEX_NAME,
    FORM_NAME,
    UNCONDITIONAL_NAME,
    "shard-000000.json",
    "shard-000000.tar",
    "shard-000001.json",
    "shard-000001.tar",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shards(tmp_path_factory.mktemp("world") / "tiny", CLIPS, clips_per_shard=2)


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(shards, tmp_path / "shards")
    open_shards.cache_clear()
    caption_store.cache_clear()


def found(directory: Path) -> dict[str, str]:
    """The damage by file, the files that are whole left out; what cannot be opened is the index's."""
    try:
        return {finding.name: finding.damage for finding in check_shards(directory) if finding.damage}
    except ShardError as error:
        return {INDEX_NAME: str(error)}


def without_sums(directory: Path) -> None:
    """As an earlier version wrote it."""
    path = directory / INDEX_NAME
    document = json.loads(path.read_bytes())
    del document["sums"]
    path.write_bytes(document_bytes(document))


def test_a_directory_holds_these_files_and_the_index_their_sums(shards: Path) -> None:
    assert sorted(path.name for path in shards.iterdir()) == sorted(FILES)
    sums = json.loads((shards / INDEX_NAME).read_bytes())["sums"]
    small = [name for name in FILES if name != INDEX_NAME and not name.endswith(".tar")]
    assert sums == {name: hashlib.sha256((shards / name).read_bytes()).hexdigest() for name in small}
    assert found(shards) == {}
    assert [finding.name for finding in check_shards(shards)][:3] == [
        INDEX_NAME,
        FORM_NAME,
        UNCONDITIONAL_NAME,
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_in_every_file(copied: Path, name: str) -> None:
    path = copied / name
    whole = path.read_bytes()
    rng = np.random.default_rng(len(name))
    for place in (0, len(whole) - 1, *rng.integers(0, len(whole), 12)):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        damage = found(copied)
        blamed = name if not name.startswith("shard") else name.replace(".json", ".tar")
        # The index repeats what others say, so that either may be blamed for it.
        assert blamed in damage or (name == INDEX_NAME and damage), f"byte {place} of {name}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_or_cut_is_found(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[:-1])
    assert found(copied)
    path.write_bytes(b"")
    assert found(copied)
    path.unlink()
    assert any("missing" in damage or "cannot be read" in damage for damage in found(copied).values())


def test_directories_of_earlier_versions_are_still_read_and_checked(copied: Path) -> None:
    without_sums(copied)
    assert found(copied) == {}
    assert len(CaptionStore(ShardDirectory(copied)).embed([""])) == 1
    whole = (copied / UNCONDITIONAL_NAME).read_bytes()
    tensors = load_file(copied / UNCONDITIONAL_NAME)
    for odd in (
        {"unconditional": tensors["unconditional"]},
        {**tensors, "empty": tensors["empty"].float()},
        {**tensors, "unconditional": torch.full_like(tensors["unconditional"], torch.nan)},
        {**tensors, "unconditional": tensors["unconditional"][:, :-1].contiguous()},
        {**tensors, "unconditional": tensors["unconditional"].flatten().clone()},
    ):
        save_file(odd, copied / UNCONDITIONAL_NAME)
        assert list(found(copied)) == [UNCONDITIONAL_NAME]
    (copied / UNCONDITIONAL_NAME).write_bytes(whole)
    form = json.loads((copied / FORM_NAME).read_bytes())
    (copied / FORM_NAME).write_bytes(document_bytes({**form, "fps": form["fps"] + 1}))
    assert list(found(copied)) == [INDEX_NAME], "the two say different things"
    (copied / FORM_NAME).unlink()
    assert list(found(copied)) == [FORM_NAME]


def test_a_record_that_is_not_the_indexs_is_refused_by_every_reader(copied: Path) -> None:
    """Another shard's record, or one that was made anew, lists members of another file."""
    path = copied / "shard-000001.json"
    record = json.loads(path.read_bytes())
    path.write_bytes(document_bytes({**record, "num_short_shots": record["num_short_shots"] + 1}))
    with pytest.raises(ShardError, match=r"shard-000001\.tar: is not the shard that the index lists"):
        ShardDirectory(copied).record(1)
    assert list(found(copied)) == ["shard-000001.tar"]


def test_a_byte_between_the_members_of_a_shard_is_found(copied: Path) -> None:
    """No member's checksum covers a header or the padding; the shard's own does."""
    path = copied / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    without_sums(copied)
    assert found(copied) == {"shard-000000.tar": "another sha256 than it was written with"}


def test_training_refuses_embeddings_that_were_changed(copied: Path) -> None:
    path = copied / UNCONDITIONAL_NAME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"unconditional\.safetensors: is damaged"):
        CaptionStore(ShardDirectory(copied))


@pytest.mark.parametrize("key", ["shards", "fps", "text_shape"])
def test_an_index_that_lacks_something_says_so_in_words(copied: Path, key: str) -> None:
    path = copied / INDEX_NAME
    document = json.loads(path.read_bytes())
    del document[key]
    path.write_bytes(document_bytes(document))
    with pytest.raises(ShardError, match=r"index\.json: damaged, it l"):
        ShardDirectory(copied)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("shards", {}, "it lists no shards"),
        ("shards", ["shard-000000.tar"], "it lists no shards"),
        ("name", "../shards/shard-000000.tar", "it lists no shards"),
        ("num_samples", "2", "it lists no shards"),
        ("sums", [], "it lists no shards"),
        ("fps", "12", r'index\.json\.fps is "12"; a whole number belongs there'),
        ("clips_per_shard", None, "clips_per_shard is null; a whole number belongs there"),
        ("text_shape", 5, "its text_shape is no pair of numbers"),
    ],
)
def test_an_index_of_values_of_another_kind_says_so_in_words(
    copied: Path, key: str, value: object, told: str
) -> None:
    """They became mistakes of the program."""
    path = copied / INDEX_NAME
    document = json.loads(path.read_bytes())
    (document["shards"][0] if key in ("name", "num_samples") else document)[key] = value
    path.write_bytes(document_bytes(document))
    with pytest.raises(ShardError, match=told):
        ShardDirectory(copied)


def test_the_command_names_what_is_damaged_and_ends_with_1(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(copied)])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["shards"], told["clips"], told["shots"], told["damaged"]) == (2, 3, 9, [])
    assert told["bytes"] == sum(
        (copied / name).stat().st_size
        for name in FILES
        if name[-5:] != ".json" or not name.startswith("shard")
    )
    content = bytearray((copied / UNCONDITIONAL_NAME).read_bytes())
    content[-1] ^= 1
    (copied / UNCONDITIONAL_NAME).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(copied)])
    assert ended.value.code == 1
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["damaged"] == [UNCONDITIONAL_NAME]
    assert f"damaged: {UNCONDITIONAL_NAME}" in output.err
