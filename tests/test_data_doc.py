"""What docs/data.md tells a reader to run or to expect is so."""

import json
import re
import shlex
from pathlib import Path

import pytest

from shotstream.cli import app
from shotstream.manifest import read_manifest

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.mark.slow
# webdataset leaves the file that it streams to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_commands_of_the_page_work_and_the_shards_are_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = TEXT.split("```\n")[1]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[:2] for command in commands] == [
        ["shotstream", "theatre"],
        ["shotstream", "data"],
        ["shotstream", "data"],
    ]
    for command in commands:
        shorter = [{"20": "2", "3": "2"}.get(word, word) for word in command[1:]]
        assert app(shorter, standalone_mode=False) in (None, 0)
    webdataset = pytest.importorskip("webdataset")
    (clip,) = list(webdataset.WebDataset("shards/shard-000000.tar", shardshuffle=False))[:1]
    listed = set(re.findall(r"^  00000000\.(\S+) ", TEXT, re.MULTILINE))
    assert {name for name in clip if not name.startswith("__")} >= listed
    assert {path.name for path in Path("shards").iterdir()} == {
        "index.json", "form.json", "unconditional.safetensors", "shard-000000.tar", "shard-000000.json",
    }  # fmt: skip


def test_the_examples_of_both_manifests_are_read(tmp_path: Path) -> None:
    csv = re.search(r"```\n(json_path.*?)```", TEXT, re.DOTALL)
    captions, line = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert csv is not None
    (tmp_path / "000000.json").write_text(captions)
    (tmp_path / "clips.csv").write_text(csv[1])
    (tmp_path / "clips.jsonl").write_text(line)
    (published,) = read_manifest(tmp_path / "clips.csv")
    assert published.shot_ranges == ((0, 33), (33, 66), (66, 99))
    (ours,) = read_manifest(tmp_path / "clips.jsonl")
    assert [shot.caption for shot in ours.story.shots] == ["...", "..."]
    assert json.loads(line)["format"] == "shotstream-clip/1"
