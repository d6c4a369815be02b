import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shotstream.film import Environment, Replay, ReplayError, is_replay, read_replay
from shotstream.film.replay import compare_frames
from tests.film.fake_pipeline import ENVIRONMENT, plan

REPLAY = Replay(plan=plan(2), environment=ENVIRONMENT, frame_sha256=(("a" * 64, "b" * 64), ("c" * 64,)))


def test_a_replay_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "film.replay.json"
    path.write_text(REPLAY.to_json())
    assert is_replay(path)
    assert read_replay(path) == REPLAY
    assert is_replay(str(path)) and read_replay(str(path)) == REPLAY


def test_a_story_is_no_replay(tmp_path: Path) -> None:
    path = tmp_path / "story.json"
    path.write_text('{"global_caption": "A fox.", "shot1": "It sits."}')
    assert not is_replay(path)
    with pytest.raises(ReplayError, match="not a replay file"):
        read_replay(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: d.update(format="shotstream-replay/99"), "not a replay file of the format"),
        (lambda d: d.update(extra=1), "'extra' is missing or unknown"),
        (lambda d: d["plan"].pop("seed"), "'seed' is missing or unknown"),
        (lambda d: d["plan"].update(num_steps="4"), "num_steps is of the wrong kind"),
        (lambda d: d["plan"]["story"].update(shots=[]), "its story is damaged: a story of 0 shots"),
        (lambda d: d["plan"]["story"]["shots"][0].pop("seed"), "names the length and the seed"),
        (lambda d: d["plan"].update(pins=[[]]), "2 shots tells of pinned frames for 1"),
        (lambda d: d["plan"].update(pins=[[], [[1, 0]]]), "shot 2 cannot look at frame 0 of shot 2"),
        (lambda d: d["plan"].update(pins=[[], [[-1, 0]]]), "shot 2 cannot look at frame 0 of shot 0"),
        (lambda d: d["plan"].update(pins=[[], [[0, -1]]]), "shot 2 cannot look at frame -1 of shot 1"),
        (lambda d: d["plan"].update(pins=[[], [[0, "1"]]]), "a pinned frame is not a shot and a frame"),
        (lambda d: d["plan"].update(pins=[[], [[0, True]]]), "a pinned frame is not a shot and a frame"),
        (lambda d: d["plan"].update(pins=[[], [[0]]]), "a pinned frame is not a shot and a frame"),
        (lambda d: d["plan"].update(pins=[[], [3]]), "a pinned frame is not a shot and a frame"),
        (lambda d: d["plan"].update(pins=[3, []]), "a pinned frame is not a shot and a frame"),
        (lambda d: d["environment"].pop("torch"), "'torch' is missing or unknown"),
        (
            lambda d: d["plan"]["story"].update(titel="x"),
            "its story is damaged: keys that are not read: 'titel'",
        ),
        (lambda d: d.update(frame_sha256=[1, 1]), "the hashes of a shot are not a list of sha256 in hex"),
        (lambda d: d["frame_sha256"][1].append(1), "not a list of sha256 in hex"),
        (lambda d: d["frame_sha256"][1].append("C" * 64), "not a list of sha256 in hex"),
        (lambda d: d["frame_sha256"][1].append("c" * 65), "not a list of sha256 in hex"),
        (lambda d: d["frame_sha256"][1].clear(), "not a list of sha256 in hex"),
        (lambda d: d["frame_sha256"].pop(), "damaged: 2 shots, and hashes of 1"),
        (lambda d: d["plan"]["story"]["shots"].pop(), "damaged: 1 shots, and hashes of 2"),
        (lambda d: d["environment"].update(device="\ud800"), r"damaged: device holds the character U\+D800"),
        (lambda d: d["plan"].update(seed=10**60), "seed is of the wrong kind"),
    ],
)
def test_damaged_replays_are_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], reason: str
) -> None:
    document = json.loads(REPLAY.to_json())
    damage(document)
    path = tmp_path / "film.replay.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ReplayError, match=reason) as caught:
        read_replay(path)
    assert "\n" not in str(caught.value)


def test_only_a_json_file_that_says_so_is_a_replay(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name, is_one in (("film.JSON", True), ("film.yaml", False)):
        (tmp_path / name).write_text(REPLAY.to_json())
        assert is_replay(tmp_path / name) is is_one
    assert not is_replay(tmp_path / "folder.json") and not is_replay(tmp_path / "none.json")


def test_a_replay_shows_captions_in_their_own_letters() -> None:
    shots = tuple(replace(shot, caption="狐 sits — là") for shot in REPLAY.plan.story.shots)
    written = replace(REPLAY, plan=replace(REPLAY.plan, story=replace(REPLAY.plan.story, shots=shots)))
    assert "狐 sits — là" in written.to_json()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_replay_that_an_editor_saved_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "film.replay.json"
    document = json.loads(REPLAY.to_json())
    path.write_bytes(json.dumps(document, sort_keys=True, indent=1).replace("\n", "\r\n").encode(encoding))
    assert is_replay(path) and read_replay(path) == REPLAY
    path.write_bytes(b'{"format": "shotstream-replay/1", "title": "the fox\x92s den"')
    with pytest.raises(ReplayError, match=r"film.replay.json: line 1: not UTF-8"):
        read_replay(path)
    path.write_bytes(b'{"format": "shotstream-replay/1",\n "plan": ')
    with pytest.raises(ReplayError, match=r"film.replay.json: line 2: no valid JSON: it ends too early"):
        read_replay(path)


def test_environments_tell_what_differs() -> None:
    other = Environment(shotstream="0", torch="1", device="cpu", dtype="float32", num_threads=2)
    assert ENVIRONMENT.differences(ENVIRONMENT) == []
    assert ENVIRONMENT.differences(other) == ["torch: 0, 1", "num_threads: 1, 2"]


@pytest.mark.parametrize("change", [{"num_steps": 0}, {"num_steps": 1001}, {"seed": -1}, {"seed": 2**63}])
def test_a_plan_that_cannot_be_filmed_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ReplayError, match="allowed are"):
        replace(REPLAY.plan, **change)


@pytest.mark.parametrize(
    "change",
    [{"num_steps": 1}, {"num_steps": 1000}, {"seed": 0}, {"seed": 2**63 - 1}, {"pins": ((), ((0, 0),))}],
)
def test_what_lies_on_a_bound_can_be_filmed_and_survives_its_file(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    replay = replace(REPLAY, plan=replace(REPLAY.plan, **change))
    (tmp_path / "film.replay.json").write_text(replay.to_json())
    assert read_replay(tmp_path / "film.replay.json") == replay


@pytest.mark.parametrize(
    ("found", "num_different", "first"),
    [
        ((("a", "b", "c"), ("d", "e"), ("f",)), 0, ""),
        ((("a", "b", "c"), ("d", "x"), ("y",)), 2, "shot 2, frame 1"),
        ((("a", "b", "c"), ("d", "e"), ("f", "g", "h")), 2, "shot 3, frame 1"),
        ((("a", "b", "c"), ("d", "e")), 1, "shot 3, frame 0"),
        ((("a", "b", "c"), ("d",), ("f",), ("g", "h")), 3, "shot 2, frame 1"),
        ((), 6, "shot 1, frame 0"),
        ((("b", "a", "c"), ("d", "e"), ("f",)), 2, "shot 1, frame 0"),
    ],
)
def test_frames_that_are_missing_added_or_moved_differ(
    found: tuple[tuple[str, ...], ...], num_different: int, first: str
) -> None:
    told: list[str] = []
    expected = (("a", "b", "c"), ("d", "e"), ("f",))
    assert compare_frames(expected, found, told.append) == num_different
    assert told == ([first] if first else [])
