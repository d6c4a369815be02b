"""What compares two revisions sees a difference, tells names from values, and follows renamed settings."""

from typing import Any

import pytest
import torch

from scripts.equality.results import compare, notes, table, tensors_of
from scripts.equality.tiny_recipes import NotThere, spelled

HEAD = torch.arange(3.0)


def state(head: torch.Tensor = HEAD, *, name: str = "head", step: int = 20) -> dict[str, Any]:
    """The tensors of a checkpoint."""
    return tensors_of({"model": {name: head, "body": torch.ones(2, 2)}, "step": step})


def told(left: object, right: object) -> str:
    (row,) = compare({"what": left}, {"what": right})
    return row.difference


def test_equal_things_are_equal_and_the_first_difference_of_others_is_told() -> None:
    loss = [{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.5}]
    assert told(loss, [dict(line) for line in loss]) == ""
    assert told(loss, [loss[0], {"step": 2, "loss": 0.50001}]) == "[1].loss: 0.5, then 0.50001"
    assert told(loss, loss[:1]) == ": 2 entries, then 1"
    assert told(1, 1.0) == "1, then 1.0", "an integer that became a float is another file"
    assert told(state(), state()) == ""


def test_one_bit_of_a_tensor_is_seen() -> None:
    difference = told(state(), state(torch.nextafter(HEAD, HEAD + 1)))
    assert difference.startswith("values differ: 1 of 3, the first model.head")
    assert "values differ" in told(state(), state(step=21))
    assert "values differ" in told(state(), state(HEAD.long())), "another dtype"
    assert "values differ" in told(state(), state(HEAD[None])), "another shape"


def test_a_renamed_tensor_is_told_as_such() -> None:
    difference = told(state(), state(name="output"))
    assert difference == "names differ: 1 gone (model.head), 1 new (model.output); values are equal"
    assert told(state(), state(HEAD + 1, name="output")).endswith("values differ beyond the names")


def test_what_one_lacks_and_what_failed_are_differences() -> None:
    rows = compare({"a": 1, "b": 2}, {"a": 1, "c": 3})
    assert [(row.what, bool(row.difference)) for row in rows] == [("a", False), ("b", True), ("c", True)]
    failed = {"error": "ValueError: no such recipe"}
    assert told(failed, failed), "what could not be made is not equal to itself"
    assert "3 compared, 2 differ" in table(rows, ("old", "new"))


def test_settings_are_spelled_as_the_checkout_has_them() -> None:
    nested = {
        "kind": "Recipe",
        "loop": {"num_steps": 9},
        "stage": {"teacher": {"dit": {"dim": 8}, "seed": 1}, "seed": 2},
    }
    flat = {"train": {"num_steps": 9}, "model": {"dit": {"dim": 8}}}
    settings = {"loop.num_steps|train.num_steps": 20, "dit.dim": 24, "seed?": 3}
    assert spelled(settings, nested) == ["loop.num_steps=20", "stage.teacher.dit.dim=24", "stage.seed=3"]
    assert spelled(settings, flat) == ["train.num_steps=20", "model.dit.dim=24"]
    with pytest.raises(NotThere, match="no setting is named batch_size"):
        spelled({"batch_size": 2}, flat)


def test_settings_that_moved_or_changed_are_shown() -> None:
    before, after = {"wan": {"rate": [1.0], "seed": [0]}}, {"wan": {"rate": [2.0], "seed": [0]}}
    assert notes(before, before) == []
    assert notes(before, after) == ["wan: gone rate=1.0; new rate=2.0"]
