"""The recorded goldens pass, and everything that must not pass fails."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from shotstream import verify
from shotstream.verify import Row, bundled_goldens, verify_directory
from shotstream.verify.cases import CASES

GOLDENS = Path(__file__).parent.parent / "assets" / "goldens"
SIBLINGS = GOLDENS / "siblings"
MASKED = GOLDENS / "dit_causal_training_mask.safetensors"
SCHEDULE = GOLDENS / "schedule.safetensors"

pytestmark = pytest.mark.goldens


def _copy(
    source: Path,
    directory: Path,
    *,
    change: Callable[[dict[str, torch.Tensor]], None] | None = None,
    **metadata: str,
) -> None:
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        kept = dict(file.metadata())
    if change is not None:
        change(tensors)
    save_file(tensors, directory / source.name, metadata={**kept, **metadata})


def _failures(directory: Path) -> list[Row]:
    return [row for row in verify_directory(directory) if not row.passed]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    pytest.importorskip("transformers", reason="the text_encoder case needs the wan extra")
    return [*verify_directory(GOLDENS), *verify_directory(SIBLINGS)]


def test_every_golden_passes(rows: list[Row]) -> None:
    assert [row for row in rows if not row.passed] == []
    recorded = {path.name for path in GOLDENS.rglob("*.*") if path.suffix != ".md"}
    assert {row.file for row in rows} == recorded
    assert {row.case for row in rows} == set(CASES)


def test_errors_are_far_below_the_tolerance(rows: list[Row]) -> None:
    """The tolerance is 1e-4; a wrong detail (a level, an eps) often costs less than that."""
    for row in rows:
        assert row.error is not None
        assert row.error <= (1e-6 if row.file in {path.name for path in SIBLINGS.iterdir()} else 2e-5), row


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_judged_by_stated_relative_bounds(dtype: torch.dtype, tmp_path: Path) -> None:
    for name in ("dit_causal_rollout.safetensors", "schedule.safetensors"):
        (tmp_path / name).symlink_to(GOLDENS / name)
    measured = verify_directory(tmp_path, dtype=dtype)
    assert all(row.passed for row in measured)
    bounds = {row.bound for row in measured if row.case == "student_rollout"}
    assert bounds == {2 * torch.finfo(dtype).eps}
    assert {row.bound for row in measured if row.case == "schedule"} == {1e-4}


def test_leaving_out_the_shot_phases_fails(tmp_path: Path) -> None:
    """One caption is read whatever the phase, so that only the angle at the cuts differs: by 0.0037."""

    def one_caption(tensors: dict[str, torch.Tensor]) -> None:
        tensors["flow.single_caption"] = tensors["flow.single_caption_no_shots"].clone()

    _copy(GOLDENS / "dit_bidirectional.safetensors", tmp_path, change=one_caption)
    for dtype in (torch.float32, torch.float16):
        failed = [row.tensor for row in verify_directory(tmp_path, dtype=dtype) if not row.passed]
        assert failed == ["flow.single_caption"]


def test_a_directory_without_goldens_fails(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    assert len(_failures(tmp_path)) == 1
    assert len(_failures(tmp_path / "missing")) == 1


def test_an_unknown_case_fails_and_the_others_still_run(tmp_path: Path) -> None:
    _copy(MASKED, tmp_path, case="student_dreams")
    (tmp_path / SCHEDULE.name).symlink_to(SCHEDULE)
    rows = verify_directory(tmp_path)
    assert [row.case for row in rows if not row.passed] == ["student_dreams"]
    assert any(row.passed for row in rows)


def test_a_tensor_that_nobody_compares_fails(tmp_path: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["flow.of_another_world"] = torch.zeros(3)

    _copy(MASKED, tmp_path, change=add)
    assert [row.tensor for row in _failures(tmp_path)] == ["flow.of_another_world"]


@pytest.mark.parametrize("value", [1e-3, float("nan")])
def test_a_wrong_number_fails(tmp_path: Path, value: float) -> None:
    def disturb(tensors: dict[str, torch.Tensor]) -> None:
        tensors["flow"][0, 0, 0, 0, 0] += value * tensors["flow"].abs().max()

    _copy(MASKED, tmp_path, change=disturb)
    assert [row.tensor for row in _failures(tmp_path)] == ["flow"]


def test_missing_or_foreign_weights_fail(tmp_path: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["weights.model.blocks.0.modulations"] = tensors.pop("weights.model.blocks.0.modulation")

    _copy(MASKED, tmp_path, change=rename)
    [row] = _failures(tmp_path)
    assert "modulations" in row.message


def test_a_missing_input_or_another_format_fails(tmp_path: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["timestep"]

    _copy(MASKED, tmp_path, change=drop)
    assert "timestep" in _failures(tmp_path)[0].message
    _copy(MASKED, tmp_path, format_version="2")
    assert "format_version" in _failures(tmp_path)[0].message


def test_files_that_are_no_goldens_fail(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor file")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bare.json").write_text(json.dumps({"rows": []}))
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    assert len(_failures(tmp_path)) == 5


def test_wrong_context_frames_fail(tmp_path: Path) -> None:
    document = json.loads((GOLDENS / "context_sampling.json").read_text())
    document["rows"][1]["frame_index"][2] += 1
    (tmp_path / "context.json").write_text(json.dumps(document))
    assert [row.tensor for row in _failures(tmp_path)] == ["rows.1.frame_index"]


def test_a_sampling_table_of_another_length_is_compared(tmp_path: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        even = 1 - torch.arange(20, dtype=torch.float64) / 20
        tensors["sample20_sigmas"] = (8 * even / (1 + 7 * even)).float()

    _copy(SCHEDULE, tmp_path, change=add)
    rows = {row.tensor: row for row in verify_directory(tmp_path)}
    assert rows["sample20_sigmas"].passed


def test_a_case_whose_library_is_missing_fails_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    (tmp_path / "text_encoder.safetensors").symlink_to(GOLDENS / "text_encoder.safetensors")
    [row] = _failures(tmp_path)
    assert "shotstream[wan]" in row.message


def test_every_odd_golden_is_a_failed_row_in_words_and_the_others_still_run(tmp_path: Path) -> None:
    """One whose config was a list once ended the command before the others were compared."""
    with safe_open(MASKED, "pt") as file:
        config = json.loads(file.metadata()["config"])
    odd = {
        "no_json": "{",
        "list": "[]",
        "deep": "[" * 50_000,
        "digits": '{"num_layers": ' + "9" * 5000 + "}",
        "empty": "{}",
        "null": json.dumps({**config, "patch_size": None}),
        "words": json.dumps({**config, "dim": "wide"}),
        "layers": json.dumps({**config, "num_layers": 10**9}),
        "width": json.dumps({**config, "dim": 10**12, "num_heads": 10**3}),
        "negative": json.dumps({**config, "num_layers": -1}),
        "zero_heads": json.dumps({**config, "num_heads": 0}),
        "eps": json.dumps({**config, "eps": "nan"}),
    }
    for name, text in odd.items():
        _copy(MASKED, tmp_path, config=text)
        (tmp_path / MASKED.name).rename(tmp_path / f"{name}.safetensors")
    for name, text in (("a", "[" * 50_000), ("b", '{"case": "context_sampling", "format_version": "1"}')):
        (tmp_path / f"{name}.json").write_text(text)
    rows_of_nonsense = {"case": "context_sampling", "format_version": 1, "policy": "published"}
    for name, rows in (("c", 3), ("d", [{"frames_per_shot": [10**12], "budget": 10**12}]), ("e", [None])):
        (tmp_path / f"{name}.json").write_text(json.dumps({**rows_of_nonsense, "rows": rows}))
    for name, tolerance in (("loose", "1e9"), ("nan", "nan"), ("text", "much")):
        _copy(SCHEDULE, tmp_path, tolerance=tolerance)
        (tmp_path / SCHEDULE.name).rename(tmp_path / f"{name}.safetensors")
    (tmp_path / "z_good.safetensors").symlink_to(SCHEDULE)
    found = verify_directory(tmp_path)
    failed = {row.file: row.message for row in found if not row.passed}
    expected = {f"{name}.safetensors" for name in (*odd, "loose", "nan", "text")} | {
        f"{c}.json" for c in "abcde"
    }
    assert failed.keys() == expected
    assert {row.file for row in found if row.passed} == {"z_good.safetensors"}
    for message in failed.values():
        for words in ("Error", "NoneType", "' object", "argument", "subscript", "literal", "must not"):
            assert words not in message, message
    assert "num_layers is 1e+09; no model has more than 512" in failed["layers.safetensors"]


def test_a_table_without_end_is_not_begun(tmp_path: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["sample10000000000000_sigmas"] = torch.zeros(3)

    _copy(SCHEDULE, tmp_path, change=add)
    [row] = _failures(tmp_path)
    assert "at most 10,000 are compared" in row.message


def test_the_goldens_are_those_of_the_checkout_or_of_the_wheel_or_told_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundled_goldens() == GOLDENS
    module = tmp_path / "site-packages" / "shotstream" / "verify" / "__init__.py"
    monkeypatch.setattr(verify, "__file__", str(module))
    with pytest.raises(ValueError, match="install the wheel, or name a directory"):
        bundled_goldens()
    (module.parent / "goldens").mkdir(parents=True)
    assert bundled_goldens() == module.parent / "goldens"
