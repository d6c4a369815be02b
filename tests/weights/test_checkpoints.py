"""A checkpoint of any layout gives the transformer in it, the one that was asked for, or the true reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream.weights.checkpoints import Transformer, read_transformer
from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.key_names import dit_names_of_diffusers
from tests.weights.conftest import backwards, write_shards


def _behind(prefix: str, dit: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in dit.items()}


def _is(found: Transformer, dit: dict[str, Tensor]) -> bool:
    return found.tensors.keys() == dit.keys() and all(
        torch.equal(lazy.load(), dit[name]) for name, lazy in found.tensors.items()
    )


@pytest.mark.parametrize(
    ("containers", "prefix"),
    [
        ((), ""),
        ((), "model."),
        ((), "module."),
        ((), "student.net."),
        ((), "model.diffusion_model."),
        (("state_dict",), "model."),
        (("model",), ""),
        (("module",), "generator.model."),
        (("generator",), "model._fsdp_wrapped_module."),
        (("generator",), "module._orig_mod.model."),
        (("ema", "shadow"), "model."),
        (("state", "generator"), "model."),
    ],
)
def test_whatever_stands_before_the_names_is_taken_off(
    tiny: Any, tmp_path: Path, containers: tuple[str, ...], prefix: str
) -> None:
    content: dict[str, Any] = _behind(prefix, tiny.dit)
    for container in reversed(containers):
        content = {container: content, "step": 7, "lr": 1e-4, "name": "run"}
    path = tmp_path / "model.pt"
    torch.save(content, path)
    assert _is(read_transformer(path, tiny.dit_config), tiny.dit)


def test_wrappers_within_names_are_taken_off(tiny: Any, tmp_path: Path) -> None:
    wrapped = {
        name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."): tensor
        for name, tensor in tiny.dit.items()
    }
    path = tmp_path / "model.pt"
    torch.save({"generator": _behind("model._fsdp_wrapped_module.", wrapped)}, path)
    assert _is(read_transformer(path, tiny.dit_config), tiny.dit)


def test_the_same_transformer_in_safetensors_shards_and_diffusers_names(tiny: Any, tmp_path: Path) -> None:
    theirs = backwards(tiny.dit, dit_names_of_diffusers(tiny.dit_config.num_layers))
    save_file(theirs, tmp_path / "diffusers.safetensors")
    save_file(_behind("diffusion_model.", tiny.dit), tmp_path / "comfy.safetensors")
    (tmp_path / "sharded").mkdir()
    write_shards(tmp_path / "sharded", "model", tiny.dit)
    (tmp_path / "bins").mkdir()
    names = sorted(tiny.dit)
    halves = {"a.bin": names[:9], "b.bin": names[9:]}
    for file, half in halves.items():
        torch.save({name: tiny.dit[name] for name in half}, tmp_path / "bins" / file)
    weight_map = {name: file for file, half in halves.items() for name in half}
    index = tmp_path / "bins" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for given in (
        tmp_path / "diffusers.safetensors",
        tmp_path / "comfy.safetensors",
        tmp_path / "sharded" / "model.safetensors.index.json",
        tmp_path / "sharded" / "model-00002-of-00002.safetensors",
        tmp_path / "sharded",
        index,
    ):
        assert _is(read_transformer(given, tiny.dit_config), tiny.dit), given


def test_a_checkpoint_of_deepspeed_is_read_from_its_directory(tiny: Any, tmp_path: Path) -> None:
    step = tmp_path / "global_step12"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step12\n")
    states = {"module": _behind("generator.model.", tiny.dit), "global_steps": 12, "ds_version": "0.18"}
    torch.save(states, step / "mp_rank_00_model_states.pt")
    for given in (tmp_path, step):
        assert _is(read_transformer(given, tiny.dit_config), tiny.dit)
    (step / "mp_rank_00_model_states.pt").rename(step / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises(
        CheckpointError, match=r"cut among its processes \(ZeRO 3\); run the zero_to_fp32\.py"
    ):
        read_transformer(tmp_path, tiny.dit_config)


def test_average_or_not_is_the_persons_choice_and_never_replaced(tiny: Any, tmp_path: Path) -> None:
    """`--ema` of a file without an average once gave the raw weights, or the other way round."""
    trained, average = ({name: tensor + by for name, tensor in tiny.dit.items()} for by in (1, 2))
    both, one, other = tmp_path / "both.pt", tmp_path / "trained.pt", tmp_path / "average.pt"
    torch.save({"generator": _behind("model.", trained), "generator_ema": _behind("model.", average)}, both)
    torch.save({"generator": _behind("model.", trained)}, one)
    torch.save({"generator_ema": _behind("model.", average)}, other)

    def read(path: Path, ema: bool | None) -> Transformer:
        return read_transformer(path, tiny.dit_config, ema=ema)

    for path, ema, expected, is_average in (
        (both, None, trained, False),
        (both, False, trained, False),
        (both, True, average, True),
        (one, None, trained, False),
        (one, False, trained, False),
        (other, None, average, True),
        (other, True, average, True),
    ):
        found = read(path, ema)
        assert _is(found, expected) and found.is_average is is_average
    assert "also holds the average (generator_ema.model), which --ema takes" in read(both, None).notes[0]
    assert "generator_ema.model, the average over training, for the file" in read(other, None).notes[0]
    with pytest.raises(CheckpointError, match=r"trained\.pt: no averaged weights inside, only trained ones"):
        read(one, True)
    with pytest.raises(CheckpointError, match=r"average\.pt: no trained weights inside, only averaged ones"):
        read(other, False)


def test_an_averaged_model_of_torchs_is_an_average(tiny: Any, tmp_path: Path) -> None:
    """`AveragedModel` names what it averaged `module`, and was told to be the weights as trained."""
    path = tmp_path / "averaged.pt"
    averaged = {"n_averaged": torch.tensor(7), **_behind("module.", tiny.dit)}
    for content, ema in ((averaged, None), (averaged, True), ({"generator": averaged}, None)):
        torch.save(content, path)
        found = read_transformer(path, tiny.dit_config, ema=ema)
        assert found.is_average and "the average over training" in " ".join(found.notes)
        assert _is(found, tiny.dit)
    with pytest.raises(CheckpointError, match="no trained weights inside, only averaged ones"):
        read_transformer(path, tiny.dit_config, ema=False)
    torch.save(_behind("module.", tiny.dit), path)
    assert not read_transformer(path, tiny.dit_config).is_average


def test_the_content_and_not_the_name_tells_the_format(tiny: Any, tmp_path: Path) -> None:
    """torch reads a path that ends in .safetensors as that: a PyTorch file of that name was an error."""
    pickled, safe = tmp_path / "a.safetensors", tmp_path / "a.pt"
    torch.save(tiny.dit, pickled)
    save_file(tiny.dit, safe)
    for path in (pickled, safe):
        assert _is(read_transformer(path, tiny.dit_config), tiny.dit)


def test_the_networks_that_trained_it_are_not_taken_for_it(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    critic = _behind("model.", {name: tensor - 5 for name, tensor in tiny.dit.items()})
    torch.save({"critic": critic, "generator": _behind("model.", tiny.dit)}, path)
    assert _is(read_transformer(path, tiny.dit_config), tiny.dit)
    flat = _behind("fake_score.model.", tiny.dit) | _behind("generator.model.", tiny.dit)
    torch.save({"state_dict": flat}, path)
    assert read_transformer(path, tiny.dit_config).part == "state_dict.generator.model"
    torch.save({"critic": critic}, path)
    with pytest.raises(CheckpointError, match=r"no generator inside, only critic\.model"):
        read_transformer(path, tiny.dit_config)


def test_several_transformers_without_a_role_are_refused(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"high": tiny.dit, "low": tiny.dit}, path)
    with pytest.raises(CheckpointError, match=r"2 transformers inside \(high, low\)"):
        read_transformer(path, tiny.dit_config)


def test_what_is_left_out_is_told(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "all_in_one.safetensors"
    others = {"first_stage_model.conv1.weight": torch.zeros(2), "cond_stage_model.a": torch.zeros(2)}
    save_file(_behind("model.diffusion_model.", tiny.dit) | others, path)
    found = read_transformer(path, tiny.dit_config)
    assert _is(found, tiny.dit)
    assert "2 tensors that are not of this transformer were left out" in found.notes[-1]


def test_weights_in_eight_bits_become_exactly_what_they_stand_for(tiny: Any, tmp_path: Path) -> None:
    path, name = tmp_path / "fp8.safetensors", "blocks.1.ffn.0.weight"
    eight = {key: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for key, t in tiny.dit.items()}
    save_file(eight, path)
    found = read_transformer(path, tiny.dit_config)
    for key, lazy in found.tensors.items():
        assert torch.equal(lazy.load().float(), eight[key].float())
        assert lazy.dtype == lazy.load().dtype == (torch.bfloat16 if eight[key].ndim > 1 else torch.float32)
    assert "fp8" in found.notes[-1] and "exactly" in found.notes[-1]
    scale = torch.tensor(0.37)
    for word in ("scale_weight", "weight_scale"):
        scaled = {**eight, f"blocks.1.ffn.0.{word}": scale, "scaled_fp8": torch.zeros(2)}
        save_file(_behind("diffusion_model.", scaled), path)
        loaded = read_transformer(path, tiny.dit_config).tensors[name].load()
        assert torch.equal(loaded, (eight[name].float() * 0.37).bfloat16())
    save_file({**eight, "blocks.1.ffn.9.scale_weight": scale}, path)
    with pytest.raises(CheckpointError, match=r"fp8\.safetensors: 1 scales belong to no weight in 8 bits"):
        read_transformer(path, tiny.dit_config)


def test_two_tensors_of_one_name_are_refused(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    twice = _behind("model.", tiny.dit) | {"model._orig_mod.head.head.bias": torch.zeros(16)}
    torch.save({"generator": twice}, path)
    with pytest.raises(CheckpointError, match=r"two tensors are named generator\.model\.head\.head\.bias"):
        read_transformer(path, tiny.dit_config)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda dit: dit.pop("model.blocks.1.ffn.2.bias"),
            r"1 missing keys \(blocks\.1\.ffn\.2\.bias\); it is incomplete; fetch it again",
        ),
        (
            lambda dit: dit.update({"model.blocks.0.self_attn.q.SCB": torch.ones(24)}),
            r"unexpected keys .*; its weights are quantised in a way that is not read; give",
        ),
        (
            lambda dit: dit.update(
                {
                    "model.img_emb.proj.0.weight": torch.zeros(3),
                    "model.patch_embedding.weight": torch.zeros(24, 36, 1, 2, 2),
                }
            ),
            r"wrong shapes .*; it is a transformer for more than text .image to video, .* another model",
        ),
        (
            lambda dit: dit.update({"model.blocks.2.ffn.2.bias": torch.zeros(24)}),
            r"1 unexpected keys .* it belongs to a transformer of other sizes",
        ),
        (lambda dit: dit.update({"model.extra": torch.zeros(1)}), r"1 unexpected keys \(extra\)"),
        (lambda dit: dit.update({"model.head.head.bias": torch.zeros(3)}), r"head\.head\.bias is \[3\]"),
        (lambda dit: dit.clear(), r"no transformer inside; it holds no tensor at all"),
        (
            lambda dit: [dit.pop(name) for name in [*dit] if "blocks.1." in name],
            r"27 missing keys .* it belongs to a transformer of other sizes",
        ),
    ],
)
def test_a_checkpoint_is_strict_both_ways(
    tiny: Any, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    content = _behind("model.", tiny.dit)
    change(content)
    path = tmp_path / "model.pt"
    torch.save({"generator": content}, path)
    with pytest.raises(CheckpointError, match=complaint):
        read_transformer(path, tiny.dit_config)


def test_a_file_of_something_else_says_what_it_holds(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content, complaint in (
        ({"conv.weight": torch.zeros(1), "epoch": 3}, r"its 1 tensors are named conv\.weight"),
        ({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(1, 1)}, r"it holds a LoRA: give it with --lora"),
        ({"model": {"_flat_param": torch.zeros(9)}}, r"its weights are FSDP shards"),
        ({"decay": 0.9, "shadow_params": [torch.zeros(9)]}, r"its tensors are in a list \(shadow_params\)"),
        ({"nets": [{"w": torch.zeros(9)}]}, r"its tensors are in a list \(nets\), where nothing says which"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=complaint):
            read_transformer(path, tiny.dit_config)
    endless: dict[str, Any] = {}
    endless["again"] = endless
    torch.save(endless, path)
    with pytest.raises(CheckpointError, match="dictionaries nested without end"):
        read_transformer(path, tiny.dit_config)


def test_a_directory_names_what_to_give(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file of weights in this directory"):
        read_transformer(tmp_path, tiny.dit_config)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match="a distributed checkpoint of PyTorch"):
        read_transformer(tmp_path, tiny.dit_config)
    (tmp_path / ".metadata").unlink()
    for name in ("pytorch_model.bin", "optimizer.bin", "scheduler.bin", "training_args.bin"):
        torch.save(tiny.dit if name == "pytorch_model.bin" else {}, tmp_path / name)
    assert _is(read_transformer(tmp_path, tiny.dit_config), tiny.dit)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model-00001-of-00002.bin")
    for given in (tmp_path, tmp_path / "model-00001-of-00002.bin"):
        with pytest.raises(
            CheckpointError, match=r"00001-of-00002\.bin: one of 2 shards, .* model\.bin\.index\.json, is not"
        ):
            read_transformer(given, tiny.dit_config)
    (tmp_path / "model-00001-of-00002.bin").unlink()
    for name in ("a.pt", "b.pt"):
        torch.save({"generator": tiny.dit}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"2 files of weights \(a\.pt, b\.pt\); give one"):
        read_transformer(tmp_path, tiny.dit_config)
