"""The published layouts give the weights they hold, or say what is wrong with them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotstream.weights.bundle import read_bundle
from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.hub import import_weights
from shotstream.weights.lora import LoraSource
from shotstream.weights.official import PublishedSource, read_published
from shotstream.weights.tensor_files import LazyTensors


def _equal(found: LazyTensors, expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(lazy.load(), expected[name]) for name, lazy in found.items()
    )


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_each_layout_gives_the_weights_it_was_made_from(tiny: Any, tmp_path: Path, layout: str) -> None:
    directory = getattr(tiny, f"write_{layout}")(tmp_path / "wan")
    weights = read_published(tiny.source(directory))
    assert weights.dit_config == tiny.dit_config
    assert weights.codec_config == tiny.codec_config
    assert weights.text_config == tiny.text_config
    assert _equal(weights.dit, tiny.dit)
    assert _equal(weights.codec, tiny.codec)
    assert _equal(weights.text_encoder, tiny.text)
    assert weights.tokenizer.is_file()


def test_the_tree_of_the_published_code_gives_its_own_checkpoint(tiny: Any, tmp_path: Path) -> None:
    tiny.write_original(tmp_path / "wan_models" / "Wan2.1-T2V-1.3B")
    student = {name: tensor + 1 for name, tensor in tiny.dit.items()}
    (tmp_path / "ckpts").mkdir()
    torch.save(
        {"generator": {f"model.{name}": tensor for name, tensor in student.items()}},
        tmp_path / "ckpts" / "shotstream_merged.pt",
    )
    assert _equal(read_published(tiny.source(tmp_path)).dit, student)


def _edit_pth(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.slow
def test_every_file_of_the_original_layout_is_checked(tiny: Any, tmp_path: Path) -> None:
    vae, text = "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"
    dit = "diffusion_pytorch_model.safetensors"

    def drop_from_dit(directory: Path) -> None:
        content = load_file(directory / dit)
        content.pop("patch_embedding.bias")
        save_file(content, directory / dit)

    def truncate(name: str) -> Callable[[Path], object]:
        return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-100])

    cases: list[tuple[Callable[[Path], object], str]] = [
        (drop_from_dit, r"1 missing keys \(patch_embedding\.bias\)"),
        (
            lambda d: _edit_pth(d / vae, lambda c: c.pop("conv1.bias")),
            r"VAE.*1 missing keys \(quant_conv\.bias\)",
        ),
        (
            lambda d: _edit_pth(d / text, lambda c: c.update(lm_head=torch.zeros(1))),
            r"unexpected keys \(lm_head\)",
        ),
        (truncate(dit), "not a complete safetensors file"),
        (truncate(vae), "truncated PyTorch file"),
        (lambda d: (d / text).unlink(), f"{text}: no such file"),
        (lambda d: (d / "google/umt5-xxl/tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
        (
            lambda d: (d / "google/umt5-xxl/tokenizer.json").write_bytes(
                b"version https://git-lfs.github.com/"
            ),
            r"tokenizer\.json: not JSON, but a Git LFS pointer, not the weights; run `git lfs pull`",
        ),
        (lambda d: (d / "google/umt5-xxl/tokenizer.json").write_text("{}"), "not a tokenizer"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: not JSON \(at line 1, column 2\)"),
        (lambda d: (d / "config.json").write_text("<html>log in"), r"config\.json: not JSON, but a web page"),
        (lambda d: (d / "config.json").write_text('{"model_type": "i2v"}'), "only 't2v' is read"),
        (lambda d: (d / "config.json").write_text("{}"), "in_dim is missing; it is not a published config"),
    ]
    for number, (damage, complaint) in enumerate(cases):
        directory = tiny.write_original(tmp_path / str(number))
        damage(directory)
        with pytest.raises(CheckpointError, match=complaint):
            read_published(tiny.source(directory))


def test_every_part_of_the_diffusers_layout_is_checked(tiny: Any, tmp_path: Path) -> None:
    def set_config(part: str, **values: object) -> Callable[[Path], object]:
        def edit(directory: Path) -> None:
            path = directory / part / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | values))

        return edit

    cases: list[tuple[Callable[[Path], object], str]] = [
        (set_config("transformer", num_layers=3), r"transformer.*27 missing keys"),
        (set_config("transformer", image_dim=4), "only text-to-video is read"),
        (set_config("transformer", patch_size=[2, 2, 2]), "patch_size is"),
        (set_config("transformer", num_attention_heads=0), "must be at least 1"),
        (set_config("transformer", num_layers=None), "num_layers is nothing .null., not a whole number"),
        (set_config("transformer", eps="small"), r'config\.json\.eps is "small"; a number belongs there'),
        (set_config("transformer", patch_size=[1, 2.5, 2.5]), "patch_size is 2.5; a whole number"),
        (set_config("vae", is_residual=True), r"only Wan2\.1's is read"),
        (set_config("vae", latents_std=[1.0]), "latents_std has 1 entries"),
        (set_config("vae", base_dim=8), "wrong shapes"),
        (set_config("text_encoder", d_kv=3), "d_kv times num_heads"),
        (lambda d: (d / "text_encoder/model.safetensors.index.json").unlink(), "nor an index of its shards"),
    ]
    for number, (damage, complaint) in enumerate(cases):
        directory = tiny.write_diffusers(tmp_path / str(number))
        damage(directory)
        with pytest.raises(CheckpointError, match=complaint):
            read_published(tiny.source(directory))


def test_a_directory_without_weights_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no published layout"):
        read_published(PublishedSource(directory=tmp_path))


def test_checkpoint_average_and_loras_become_the_bundle_and_are_told(tiny: Any, tmp_path: Path) -> None:
    directory = tiny.write_original(tmp_path / "wan")
    average = {name: tensor + 2 for name, tensor in tiny.dit.items()}
    torch.save({"generator": tiny.dit, "generator_ema": average}, tmp_path / "student.pt")
    down, up, module = torch.ones(2, 24), torch.full((24, 2), 0.5), "blocks.0.self_attn.q"
    lora = {
        f"{module}.lora_A.weight": down,
        f"{module}.lora_B.weight": up,
        f"{module}.alpha": torch.tensor(6.0),
    }
    save_file(lora, tmp_path / "style.safetensors")
    source = tiny.source(
        directory,
        checkpoint=tmp_path / "student.pt",
        ema=True,
        loras=(LoraSource(path=tmp_path / "style.safetensors", multiplier=0.5),),
    )
    notes: list[str] = []
    bundle = read_bundle(import_weights(source, out=tmp_path / "bundle", notes=notes))
    expected = average | {f"{module}.weight": average[f"{module}.weight"] + 0.5 * 6 / 2 * up @ down}
    for name, tensor in expected.items():
        torch.testing.assert_close(bundle.tensors["dit"][name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    assert bundle.provenance == {
        "base": "wan",
        "checkpoint": "student.pt",
        "part": "generator_ema",
        "averaged": True,
        "sha256": hashlib.sha256((tmp_path / "student.pt").read_bytes()).hexdigest(),
        "loras": [
            {
                "file": "style.safetensors",
                "sha256": hashlib.sha256((tmp_path / "style.safetensors").read_bytes()).hexdigest(),
                "strengths": [3.0],
                "scale": 0.5,
            }
        ],
    }
    assert notes == [
        "student.pt: taken: generator_ema, the average over training",
        "style.safetensors: changes 1 tensors, strength 3 (its alpha tensors over rank 2), times your 0.5",
    ]


def test_a_choice_without_a_checkpoint_and_a_lora_given_twice_are_refused(tiny: Any, tmp_path: Path) -> None:
    directory = tiny.write_original(tmp_path / "wan")
    for ema in (True, False):
        with pytest.raises(ValueError, match="give --checkpoint too"):
            read_published(tiny.source(directory, ema=ema))
    twice = (LoraSource(path=Path("a.pt")), LoraSource(path=Path("a.pt"), multiplier=0.5))
    with pytest.raises(ValueError, match="the same LoRA is given twice"):
        PublishedSource(directory=directory, loras=twice)


@pytest.mark.parametrize(
    ("file", "tensor", "name"),
    [
        ("Wan2.1_VAE.pth", "conv1.weight", r"wan \(VAE\): quant_conv\.weight is damaged"),
        (
            "models_t5_umt5-xxl-enc-bf16.pth",
            "norm.weight",
            r"\(text encoder\): encoder\.final_layer_norm\.weight",
        ),
    ],
)
def test_a_number_that_is_none_stops_the_import_by_its_name_and_leaves_nothing(
    tiny: Any, tmp_path: Path, file: str, tensor: str, name: str
) -> None:
    directory = tiny.write_original(tmp_path / "wan")

    def damage(content: dict[str, Tensor]) -> None:
        content[tensor] = content[tensor].clone()
        content[tensor].view(-1)[1] = float("nan")

    _edit_pth(directory / file, damage)
    with pytest.raises(CheckpointError, match=name):
        import_weights(tiny.source(directory), out=tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["wan"]
