"""The published layouts give the weights they hold, or say what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotstream.weights.official import (
    PublishedSource,
    merge_lora,
    read_generator,
    read_lora,
    read_published,
)
from shotstream.weights.tensor_files import CheckpointError, LazyTensor, LazyTensors


def _load(tensors: LazyTensors) -> dict[str, Tensor]:
    return {name: lazy.load() for name, lazy in tensors.items()}


def _equal(found: LazyTensors, expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(lazy.load(), expected[name]) for name, lazy in found.items()
    )


def _published(dit: dict[str, Tensor], prefix: str = "model.") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in dit.items()}


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
    torch.save({"generator": _published(student)}, tmp_path / "ckpts" / "shotstream_merged.pt")
    assert _equal(read_published(tiny.source(tmp_path)).dit, student)


def test_a_checkpoint_replaces_the_base_transformer(tiny: Any, tmp_path: Path) -> None:
    directory = tiny.write_original(tmp_path / "wan")
    student = {name: tensor + 1 for name, tensor in tiny.dit.items()}
    average = {name: tensor + 2 for name, tensor in tiny.dit.items()}
    path = tmp_path / "model.pt"
    torch.save(
        {"generator": _published(student), "generator_ema": _published(average), "step": 7},
        path,
    )
    assert _equal(read_published(tiny.source(directory, checkpoint=path)).dit, student)
    assert _equal(read_published(tiny.source(directory, checkpoint=path, use_ema=True)).dit, average)
    with pytest.raises(ValueError, match="give the checkpoint too"):
        PublishedSource(directory=directory, use_ema=True)


def test_an_average_alone_is_taken_and_wrapper_names_are_dropped(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    wrapped = {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in tiny.dit.items()}
    torch.save({"generator_ema": wrapped}, path)
    assert _equal(read_generator(path, tiny.dit_config), tiny.dit)


def test_two_tensors_of_one_name_are_refused(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    twice = _published(tiny.dit) | _published({"head.head.bias": torch.zeros(16)}, "model._orig_mod.")
    torch.save({"generator": twice}, path)
    with pytest.raises(CheckpointError, match=r"two tensors are named head\.head\.bias"):
        read_generator(path, tiny.dit_config)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda dit: dit.pop("model.blocks.1.ffn.2.bias"), r"1 missing keys \(blocks\.1\.ffn\.2\.bias\)"),
        (lambda dit: dit.update({"model.extra": torch.zeros(1)}), r"1 unexpected keys \(extra\)"),
        (lambda dit: dit.update({"model.head.head.bias": torch.zeros(3)}), r"head\.head\.bias is \[3\]"),
        (lambda dit: dit.clear(), r"missing keys \(blocks\.0\..*, \.\.\.\)"),
    ],
)
def test_a_checkpoint_is_strict_both_ways(
    tiny: Any, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    content = _published(tiny.dit)
    change(content)
    path = tmp_path / "model.pt"
    torch.save({"generator": content}, path)
    with pytest.raises(CheckpointError, match=complaint):
        read_generator(path, tiny.dit_config)


def test_a_checkpoint_of_another_kind_says_what_it_holds(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"no 'generator' inside, but \['epoch', 'state_dict'\]"):
        read_generator(path, tiny.dit_config)


def _edit_pth(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


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
        (truncate(dit), "not a whole safetensors file"),
        (truncate(vae), "truncated PyTorch file"),
        (lambda d: (d / text).unlink(), f"{text}: no such file"),
        (lambda d: (d / "google/umt5-xxl/tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json: not JSON"),
        (lambda d: (d / "config.json").write_text('{"model_type": "i2v"}'), "only 't2v' is read"),
        (lambda d: (d / "config.json").write_text("{}"), "in_dim is None, not an integer"),
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


def _lora(rank: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    stem = "base_model.model.blocks.0.self_attn.q"
    return {
        f"{stem}.lora_A.weight": torch.randn(rank, 24, generator=generator),
        f"{stem}.lora_B.weight": torch.randn(24, rank, generator=generator),
    }


def test_a_merged_lora_adds_its_product_and_nothing_else(tiny: Any, tmp_path: Path) -> None:
    directory = tiny.write_original(tmp_path / "wan")
    path = tmp_path / "lora.pt"
    lora = _lora()
    torch.save({"generator_lora": lora, "critic_lora": {}, "step": 3}, path)
    merged = _load(read_published(tiny.source(directory, lora=path, lora_scale=0.5)).dit)
    down, up = lora.values()
    name = "blocks.0.self_attn.q.weight"
    # A merged layer applied to x equals the base plus the scaled adapter.
    x = torch.randn(3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    expected = x @ tiny.dit[name].double().T + 0.5 * (x @ down.double().T) @ up.double().T
    assert torch.allclose(x @ merged[name].double().T, expected, atol=1e-5)
    assert all(torch.equal(merged[key], tensor) for key, tensor in tiny.dit.items() if key != name)


def test_peft_agrees_on_names_and_on_the_merge() -> None:
    peft = pytest.importorskip("peft", reason="peft comes with the train extra")

    class _Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = torch.nn.Linear(6, 4)

    model = peft.get_peft_model(
        _Block(), peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q"], init_lora_weights=False)
    )
    lora = {name: tensor.clone() for name, tensor in peft.get_peft_model_state_dict(model).items()}
    base = {"q.weight": model.base_model.model.q.base_layer.weight.detach().clone()}
    merged = merge_lora(
        {name: LazyTensor.of(tensor) for name, tensor in base.items()},
        {name: LazyTensor.of(tensor) for name, tensor in lora.items()},
        "lora",
    )
    expected = model.merge_and_unload().q.weight
    assert torch.allclose(merged["q.weight"].load(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lora: lora.popitem(), "has only lora_A"),
        (lambda lora: lora.update({"blocks.0.q.alpha": torch.zeros(1)}), "is no LoRA key"),
        (
            lambda lora: lora.update(
                {f"base_model.model.head.q.lora_{half}.weight": torch.zeros(1, 1) for half in "AB"}
            ),
            r"adapts head\.q\.weight, which the transformer lacks",
        ),
        (
            lambda lora: lora.update(
                {"base_model.model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(3, 24)}
            ),
            "does not fit",
        ),
        (lambda lora: lora.clear(), "no LoRA tensor inside"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    tiny: Any, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    lora = _lora()
    change(lora)
    path = tmp_path / "lora.pt"
    torch.save(lora, path)
    weights = {name: LazyTensor.of(tensor) for name, tensor in tiny.dit.items()}
    with pytest.raises(CheckpointError, match=complaint):
        merge_lora(weights, read_lora(path), "lora.pt")
