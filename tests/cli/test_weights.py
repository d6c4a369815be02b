"""`weights` as a person meets it: what was chosen is told and kept, and what is refused is named."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_cli import complaint, run
from tests.weights.conftest import TinyModel

_Q = "blocks.0.self_attn.q"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in diffusers' layout, a student with its average, and two LoRAs, one with markup for a name."""
    directory, tiny = tmp_path_factory.mktemp("published"), TinyModel()
    tiny.write_diffusers(directory / "base")
    average = {name: tensor + 1 for name, tensor in tiny.dit.items()}
    torch.save({"generator": tiny.dit, "generator_ema": average}, directory / "student.pt")
    halves: dict[str, Any] = {
        f"{_Q}.lora_down.weight": torch.ones(2, 24),
        f"{_Q}.lora_up.weight": torch.ones(24, 2),
    }
    save_file(halves | {f"{_Q}.alpha": torch.tensor(8.0)}, directory / "[red]style.safetensors")
    save_file(halves, directory / "plain.safetensors")
    return directory


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_an_import_tells_and_keeps_what_it_took(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOTSTREAM_HOME", str(tmp_path))
    loras = [str(published / "[red]style.safetensors"), str(published / "plain.safetensors")]
    student = ("--checkpoint", str(published / "student.pt"), "--ema")
    added = ("--lora", loras[0], "--lora", loras[1], "--lora-scale", "0.5", "--lora-scale", "2")
    assert run("weights", "import", str(published / "base"), "--as", "mine", *student, *added) == 0
    said = _said(capsys)
    assert "student.pt: taken: generator_ema, the average over training" in said
    assert (
        "[red]style.safetensors: changes 1 tensors, strength 4 (its alpha tensors over rank 2), times your"
        in said
    )
    assert "plain.safetensors: changes 1 tensors, strength 1 (rank 2; the file says no alpha" in said
    assert run("weights", "show") == 0
    assert _said(capsys).split() == ["theatre", "mine"]
    assert run("weights", "show", "mine") == 0
    shown = _said(capsys).splitlines()
    hashes = [hashlib.sha256((published / name).read_bytes()).hexdigest() for name in ("student.pt", *loras)]
    assert shown[2:6] == [
        "base: base",
        f"checkpoint: student.pt, generator_ema, average over training, sha256 {hashes[0]}",
        f"LoRA: [red]style.safetensors, strength 4, times 0.5, sha256 {hashes[1]}",
        f"LoRA: plain.safetensors, strength 1, times 2, sha256 {hashes[2]}",
    ]


@pytest.mark.parametrize(
    ("options", "complains"),
    [
        (("student.pt",), "student.pt: a file; give the directory of the base model"),
        (("--ema",), "give --checkpoint too"),
        (("--checkpoint", "absent.pt"), "absent.pt: no such file"),
        (("--checkpoint", "plain.safetensors"), "it holds a LoRA: give it with --lora"),
        (("--lora", "student.pt"), "a whole transformer is given with --checkpoint"),
        (("--lora", "plain.safetensors", "--lora-scale", "0"), "give a number other than 0"),
        (("--lora-scale", "1"), "1 --lora-scale for 0 --lora; give one for each"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_line(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    complains: str,
) -> None:
    monkeypatch.setenv("SHOTSTREAM_HOME", str(tmp_path))
    monkeypatch.chdir(published)
    source = () if options[0] == "student.pt" else ("base",)
    assert run("weights", "import", *source, "--as", "mine", *options) == 2
    assert complains in complaint(capsys)
    assert not list(tmp_path.iterdir())
