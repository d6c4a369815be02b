"""A LoRA of any program is added at the strength that it was made for, or refused with the true reason."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.key_names import dit_names_of_diffusers
from shotstream.weights.lora import LoraSource, merge_loras, read_lora
from shotstream.weights.tensor_files import LazyTensor, LazyTensors

_Q, _FFN = "blocks.0.self_attn.q", "blocks.1.ffn.0"
_RANK = 4


def _lazy(dit: Mapping[str, Tensor]) -> LazyTensors:
    return {name: LazyTensor.of(tensor) for name, tensor in dit.items()}


def _halves(
    dit: Mapping[str, Tensor], module: str, seed: int = 5, rank: int = _RANK
) -> tuple[Tensor, Tensor]:
    """Down and up of a module."""
    generator = torch.Generator().manual_seed(seed)
    num_out, num_in = dit[f"{module}.weight"].shape
    return torch.randn(rank, num_in, generator=generator), torch.randn(num_out, rank, generator=generator)


def _merge(dit: Mapping[str, Tensor], *sources: LoraSource) -> dict[str, Tensor]:
    weights = _lazy(dit)
    merged = merge_loras(weights, [read_lora(source, weights) for source in sources])
    return {name: lazy.load() for name, lazy in merged.items()}


def _with(dit: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The right answer: changes in float64, rounded once."""
    return {
        name: (tensor.double() + changes[name].double()).to(tensor.dtype) if name in changes else tensor
        for name, tensor in dit.items()
    }


def _same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=2e-7, atol=1e-6, msg=name)


def _named(dit: Mapping[str, Tensor], form: str) -> dict[str, Tensor]:
    """One LoRA on two modules as each program writes it; alpha is not among them."""
    back = {ours: theirs for theirs, ours in dit_names_of_diffusers(2).items()}
    tensors: dict[str, Tensor] = {}
    for seed, module in enumerate((_Q, _FFN)):
        down, up = _halves(dit, module, seed)
        theirs = back[f"{module}.weight"].removesuffix(".weight")
        names = {
            "peft": (f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight"),
            "peft_model": (
                f"base_model.model.model.{module}.lora_A.default.weight",
                f"base_model.model.model.{module}.lora_B.default.weight",
            ),
            "comfy": (f"diffusion_model.{module}.lora_A.weight", f"diffusion_model.{module}.lora_B.weight"),
            "comfy_down": (
                f"diffusion_model.{module}.lora_down.weight",
                f"diffusion_model.{module}.lora_up.weight",
            ),
            "kohya": (
                f"lora_unet_{module.replace('.', '_')}.lora_down.weight",
                f"lora_unet_{module.replace('.', '_')}.lora_up.weight",
            ),
            "kohya_diffusers": (
                f"lora_transformer_{theirs.replace('.', '_')}.lora_down.weight",
                f"lora_transformer_{theirs.replace('.', '_')}.lora_up.weight",
            ),
            "diffusers": (f"transformer.{theirs}.lora_A.weight", f"transformer.{theirs}.lora_B.weight"),
            "diffusers_old": (
                f"transformer.{theirs}.lora.down.weight",
                f"transformer.{theirs}.lora.up.weight",
            ),
            "bare": (f"{module}.lora_A.weight", f"{module}.lora_B.weight"),
        }[form]
        tensors |= dict(zip(names, (down, up), strict=True))
    return tensors


def _right(dit: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    changes = {}
    for seed, module in enumerate((_Q, _FFN)):
        down, up = _halves(dit, module, seed)
        changes[f"{module}.weight"] = strength * (up.double() @ down.double())
    return _with(dit, changes)


_FORMS = ("peft", "peft_model", "comfy", "comfy_down", "kohya", "kohya_diffusers", "diffusers", "bare")


@pytest.mark.parametrize("form", [*_FORMS, "diffusers_old"])
def test_the_names_of_every_program_find_the_same_weights(tiny: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(_named(tiny.dit, form), path)
    _same(_merge(tiny.dit, LoraSource(path=path)), _right(tiny.dit, 1.0))
    [note] = {read_lora(LoraSource(path=path), _lazy(tiny.dit)).note}
    assert "changes 2 tensors, strength 1 (rank 4; the file says no alpha, so alpha = rank is taken" in note


@pytest.mark.parametrize("form", ["comfy_down", "kohya", "kohya_diffusers"])
def test_an_alpha_tensor_over_the_rank_is_the_strength(tiny: Any, tmp_path: Path, form: str) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = _named(tiny.dit, form)
    stems = {name.removesuffix(".lora_down.weight") for name in tensors if name.endswith(".lora_down.weight")}
    save_file(tensors | {f"{stem}.alpha": torch.tensor(16.0) for stem in stems}, path)
    _same(_merge(tiny.dit, LoraSource(path=path)), _right(tiny.dit, 4.0))
    # A multiplier of the person's comes on top; the alphas win over the metadata, as in kohya's programs.
    save_file(
        tensors | {f"{stem}.alpha": torch.tensor(1) for stem in stems}, path, {"ss_network_alpha": "64"}
    )
    _same(_merge(tiny.dit, LoraSource(path=path, multiplier=-0.5)), _right(tiny.dit, -0.125))


@pytest.mark.parametrize(
    ("metadata", "strength"),
    [
        ({"ss_network_alpha": "16.0", "ss_network_dim": "4"}, 4.0),
        ({"ss_network_alpha": "2", "ss_network_dim": "None"}, 0.5),
        ({"ss_network_alpha": "None"}, 1.0),
        ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 12, "transformer.r": 4})}, 3.0),
        ({"format": "pt"}, 1.0),
    ],
)
def test_an_alpha_in_the_metadata_is_the_strength(
    tiny: Any, tmp_path: Path, metadata: dict[str, str], strength: float
) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(_named(tiny.dit, "comfy"), path, metadata)
    _same(_merge(tiny.dit, LoraSource(path=path)), _right(tiny.dit, strength))


@pytest.mark.parametrize(
    ("config", "strengths"),
    [
        ({"lora_alpha": 16}, (4.0, 4.0)),
        ({"lora_alpha": 16, "r": 4, "use_rslora": True}, (8.0, 8.0)),
        ({"lora_alpha": 16, "alpha_pattern": {"ffn.0": 2}}, (4.0, 0.5)),
        ({"lora_alpha": 16, "alpha_pattern": {r"blocks\.1\.ffn\.0": 2}}, (4.0, 0.5)),
        ({"lora_alpha": 16, "alpha_pattern": {"fn.0": 2, "q": 8}}, (2.0, 4.0)),
        ({"lora_alpha": 16, "alpha_pattern": {"^blocks.1.ffn.0": 1}, "use_rslora": True}, (8.0, 0.5)),
        ({"lora_alpha": 16, "r": 64, "rank_pattern": {"q": 4, "blocks.1.ffn.0": 4}}, (4.0, 4.0)),
        ({"peft_type": "LORA", "r": 4}, (2.0, 2.0)),
    ],
)
@pytest.mark.parametrize("place", ["beside", "directory", "inside"])
def test_a_config_of_pefts_is_the_strength(
    tiny: Any, tmp_path: Path, config: dict[str, Any], strengths: tuple[float, float], place: str
) -> None:
    """The file alone was once added at strength 1, whatever its config said."""
    tensors = _named(tiny.dit, "peft")
    given = tmp_path / "adapter_model.safetensors"
    if place == "inside":
        config = {"lora_alpha": 8, **config}
        given = tmp_path / "lora.pt"
        torch.save({"generator_lora": tensors, "lora_config": config, "step": 3}, given)
    else:
        save_file(tensors, given)
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        given = tmp_path if place == "directory" else given
    changes = {}
    for seed, (module, strength) in enumerate(zip((_Q, _FFN), strengths, strict=True)):
        down, up = _halves(tiny.dit, module, seed)
        changes[f"{module}.weight"] = strength * (up.double() @ down.double())
    _same(_merge(tiny.dit, LoraSource(path=given)), _with(tiny.dit, changes))


def test_alpha_and_rank_may_lie_beside_the_tensors_of_a_pytorch_file(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "lora.pt"
    torch.save({"lora": _named(tiny.dit, "peft"), "alpha": 16, "rank": 4}, path)
    _same(_merge(tiny.dit, LoraSource(path=path)), _right(tiny.dit, 4.0))
    torch.save({"lora": _named(tiny.dit, "peft"), "alpha": 16, "rank": 8}, path)
    with pytest.raises(CheckpointError, match=r"says rank 8 for .*, and the tensors have 4"):
        _merge(tiny.dit, LoraSource(path=path))


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_what_a_file_says_of_itself_goes_before_a_config_that_lies_beside_it(
    tiny: Any, tmp_path: Path, kind: str
) -> None:
    """A folder of several LoRAs has one `adapter_config.json`, which may be another's."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16}))
    path = tmp_path / f"lora.{kind}"
    tensors = _named(tiny.dit, "peft")
    if kind == "pt":
        torch.save({"lora": tensors, "alpha": 2}, path)
    else:
        save_file(tensors, path, {"ss_network_alpha": "2"})
    _same(_merge(tiny.dit, LoraSource(path=path)), _right(tiny.dit, 0.5))


def test_only_the_generators_adapter_of_a_training_checkpoint_is_taken(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "lora.pt"
    critic = {name: tensor * 7 for name, tensor in _named(tiny.dit, "peft_model").items()}
    torch.save({"generator_lora": _named(tiny.dit, "peft_model"), "critic_lora": critic, "step": 3}, path)
    _same(_merge(tiny.dit, LoraSource(path=path)), _right(tiny.dit, 1.0))


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_itself_merges_to_the_same_weights(tiny: Any, tmp_path: Path, rslora: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft comes with the train extra")
    from shotstream.model.dit import DiT

    dit = DiT(tiny.dit_config)
    dit.load_state_dict(tiny.dit)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules=["q", "v", "ffn.0", "patch_embedding", "time_projection.1"],
        rank_pattern={"ffn.0": 3, "blocks.1.self_attn.q": 2},
        alpha_pattern={"cross_attn.v": 5, "^blocks.0.self_attn.q": 1},
        use_rslora=rslora,
        modules_to_save=["head.head"],
        init_lora_weights=False,
    )
    torch.manual_seed(1)
    model = peft.get_peft_model(dit, config)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.25
    model.save_pretrained(tmp_path / "adapter")
    expected = {name: t.detach().clone() for name, t in model.merge_and_unload().state_dict().items()}
    found = _merge(tiny.dit, LoraSource(path=tmp_path / "adapter"))
    assert found.keys() == expected.keys()
    changed = {name for name, tensor in expected.items() if not torch.equal(tensor, tiny.dit[name])}
    # q and v of two attentions in two blocks, ffn.0 in two, two single ones, and the head's weight and bias.
    assert len(changed) == 2 * 2 * 2 + 2 + 2 + 2
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
def test_diffusers_itself_fuses_to_the_same_weights(tiny: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft comes with the train extra")
    diffusers = pytest.importorskip("diffusers", reason="diffusers comes with the dev extra")
    config, back = tiny.dit_config, dit_names_of_diffusers(2)
    library = diffusers.WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
    )
    library.load_state_dict({theirs: tiny.dit[ours] for theirs, ours in back.items()})
    library.add_adapter(
        peft.LoraConfig(
            r=4, lora_alpha=10, target_modules=["to_q", "to_out.0", "net.2"], init_lora_weights=False
        )
    )
    library.save_lora_adapter(tmp_path)
    library.fuse_lora()
    fused = {name.replace(".base_layer", ""): tensor for name, tensor in library.state_dict().items()}
    found = _merge(tiny.dit, LoraSource(path=tmp_path))
    num_changed = 0
    for theirs, ours in back.items():
        torch.testing.assert_close(found[ours], fused[theirs], rtol=1e-5, atol=1e-5, msg=ours)
        num_changed += not torch.equal(found[ours], tiny.dit[ours])
    assert num_changed == 2 * (2 * 2 + 1)


def test_several_loras_add_up_in_any_order_and_are_rounded_once(tiny: Any, tmp_path: Path) -> None:
    """The last one once took the place of the others; in half precision each would lose what it adds."""
    dit = {name: tensor.bfloat16() for name, tensor in tiny.dit.items()}
    sources = []
    total = torch.zeros(24, 24, dtype=torch.float64)
    for number, multiplier in enumerate((0.003, -0.5, 1.0, 0.002)):
        down, up = _halves(tiny.dit, _Q, number)
        path = tmp_path / f"{number}.safetensors"
        save_file({f"{_Q}.lora_A.weight": down.half(), f"{_Q}.lora_B.weight": up.half()}, path)
        sources.append(LoraSource(path=path, multiplier=multiplier))
        total += multiplier * (up.half().double() @ down.half().double())
    merged = _merge(dit, *sources)
    name = f"{_Q}.weight"
    assert torch.equal(merged[name], (dit[name].double() + total).bfloat16())
    assert torch.equal(_merge(dit, *reversed(sources))[name], merged[name])
    assert all(torch.equal(merged[key], tensor) for key, tensor in dit.items() if key != name)
    rounded_each_time = dit[name]
    for source in sources:
        rounded_each_time = _merge({**dit, name: rounded_each_time}, source)[name]
    assert not torch.equal(rounded_each_time, merged[name]), "the case tells one rounding from four"


def test_differences_and_convolutions_are_added_too(tiny: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    path = tmp_path / "lora.safetensors"
    conv_down, conv_up = draw(2, 4, 1, 2, 2), draw(24, 2, 1, 1, 1)
    norm, bias = draw(24), draw(24)
    save_file(
        {
            "diffusion_model.patch_embedding.lora_down.weight": conv_down,
            "diffusion_model.patch_embedding.lora_up.weight": conv_up,
            "diffusion_model.blocks.0.norm3.diff": norm,
            "diffusion_model.blocks.0.self_attn.q.diff_b": bias,
        },
        path,
    )
    changes = {
        "patch_embedding.weight": torch.einsum("or,rikhw->oikhw", conv_up[:, :, 0, 0, 0], conv_down),
        "blocks.0.norm3.weight": norm,
        "blocks.0.self_attn.q.bias": bias,
    }
    doubled = {name: 2 * change.double() for name, change in changes.items()}
    _same(_merge(tiny.dit, LoraSource(path=path, multiplier=2.0)), _with(tiny.dit, doubled))


def _add(**tensors: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda lora: lora.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})


_STEM = f"base_model.model.{_Q}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lora: lora.pop(f"{_STEM}.lora_B.weight"), r"lora_A\.weight and no lora_B \(lora_up\)"),
        (lambda lora: lora.pop(f"{_STEM}.lora_A.weight"), r"lora_B\.weight and no lora_A \(lora_down\)"),
        (
            _add(base_model__model__head__q__lora_A__weight=torch.zeros(1, 1)),
            r"1 of 5 tensors fit nothing in this transformer \(base_model\.model\.head\.q\.lora_A\.weight\)",
        ),
        (_add(lora_te_text_model_layers_0_q__lora_down__weight=torch.zeros(1, 1)), "fit nothing"),
        (_add(critic__blocks__0__self_attn__k__lora_A__weight=torch.zeros(1, 24)), "fit nothing"),
        (
            lambda lora: lora.update({f"{_STEM}.lora_A.weight": torch.zeros(4, 23)}),
            r"\[24, 4\] x \[4, 23\] does not fit blocks\.0\.self_attn\.q\.weight \[24, 24\]",
        ),
        (
            lambda lora: lora.update({f"{_STEM}.lora_A.weight": torch.zeros(3, 24)}),
            r"lora_A\.weight has rank 3 and .*lora_B\.weight rank 4; they are halves of two LoRAs",
        ),
        (
            lambda lora: lora.update({"diffusion_model.blocks.0.diff_m": torch.ones(1, 6, 24)}),
            "the modulation",
        ),
        (lambda lora: lora.update({f"{_STEM}.scalar": torch.tensor(0.3)}), "with a learnt strength"),
        (lambda lora: lora.update({f"{_STEM}.lora_A.second.weight": torch.zeros(4, 24)}), "the same weight"),
        (lambda lora: lora.update({f"{_STEM}.alpha": torch.tensor(0.0)}), "alpha is 0; an alpha is above 0"),
        (lambda lora: lora.update({f"{_STEM}.alpha": torch.tensor(-4.0)}), "alpha is -4"),
        (lambda lora: lora.update({f"{_STEM}.alpha": torch.tensor(float("nan"))}), "alpha is nan"),
        (lambda lora: lora.update({f"{_STEM}.alpha": torch.tensor(True)}), "not a single number"),
        (lambda lora: lora.update({f"{_STEM}.alpha": torch.ones(2)}), "not a single number"),
        (lambda lora: lora.update({f"{_STEM}.alpha": torch.tensor(1e20)}), "no LoRA is made for that"),
        (lambda lora: lora.clear(), "no LoRA tensor inside"),
        (lambda lora: (lora.clear(), lora.update(conv=torch.zeros(1))), "no LoRA tensor inside, but conv"),
        (lambda lora: lora.update({f"{_STEM}.lora_magnitude_vector": torch.ones(24)}), r"DoRA \(base_model"),
        (lambda lora: lora.update({f"{_STEM}.dora_scale": torch.ones(24)}), "DoRA"),
        (lambda lora: lora.update({f"{_STEM}.hada_w1_a": torch.ones(24)}), "LoHa"),
        (lambda lora: lora.update({f"{_STEM}.lokr_w1": torch.ones(24)}), "LoKr"),
        (lambda lora: lora.update({f"{_STEM}.lora_mid.weight": torch.ones(24)}), "Tucker"),
        (lambda lora: lora.update({f"{_STEM}.lora_B.bias": torch.ones(24)}), "with biases"),
        (lambda lora: lora.update({f"{_STEM}.diff": torch.ones(24, 24)}), "is changed twice"),
        (
            lambda lora: lora.update({f"{_STEM}.lora_A.weight": torch.zeros(4, 24, dtype=torch.complex64)}),
            "complex numbers",
        ),
    ],
)
def test_a_lora_that_would_not_act_as_it_was_made_to_is_refused(
    tiny: Any, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    lora = _named(tiny.dit, "peft")
    change(lora)
    path = tmp_path / "lora.pt"
    torch.save(lora, path)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        _merge(tiny.dit, LoraSource(path=path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"peft_type": "LOHA"}, "an adapter of the kind LOHA"),
        ({"use_dora": True}, "use_dora: a LoRA with DoRA"),
        ({"fan_in_fan_out": True}, "transposed weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "trained against changed base weights"),
        ({"init_lora_weights": "olora"}, "trained against changed base weights"),
        ({"r": 8}, r"adapter_config\.json: says rank 8 for blocks\.0\.self_attn\.q, and the tensors have 4"),
        ({"lora_alpha": "many"}, "lora_alpha is 'many'; it is a number above 0"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"lora_alpha": 1e300}, "no LoRA is made for that"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"alpha_pattern": ["q"]}, "alpha_pattern does not map modules to numbers"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "only plain names of modules are read"),
    ],
)
def test_a_config_of_another_adapter_or_of_nonsense_is_refused(
    tiny: Any, tmp_path: Path, config: dict[str, Any], complaint: str
) -> None:
    save_file(_named(tiny.dit, "peft"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4, **config}))
    with pytest.raises(CheckpointError, match=complaint):
        _merge(tiny.dit, LoraSource(path=tmp_path))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_lora_in_eight_bits_adds_what_its_numbers_stand_for(
    tiny: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    path = tmp_path / "lora.safetensors"
    down, up = (half.to(dtype) for half in _halves(tiny.dit, _Q))
    save_file({f"{_Q}.lora_A.weight": down, f"{_Q}.lora_B.weight": up}, path)
    right = _with(tiny.dit, {f"{_Q}.weight": up.double() @ down.double()})
    _same(_merge(tiny.dit, LoraSource(path=path)), right)


def test_whole_weights_are_replaced_once_and_have_no_strength(tiny: Any, tmp_path: Path) -> None:
    head, bias = torch.full((16, 24), 0.5), torch.full((16,), 2.0)
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    whole = {
        "base_model.model.head.head.weight": head,
        "base_model.model.head.head.modules_to_save.default.bias": bias,
    }
    save_file(_named(tiny.dit, "peft") | whole, path)
    merged = _merge(tiny.dit, LoraSource(path=path))
    _same(merged, _right(tiny.dit, 1.0) | {"head.head.weight": head, "head.head.bias": bias})
    with pytest.raises(CheckpointError, match="replaces a whole weight, which has no strength"):
        _merge(tiny.dit, LoraSource(path=path, multiplier=0.5))
    save_file(
        {"head.head.lora_A.weight": torch.ones(1, 24), "head.head.lora_B.weight": torch.ones(16, 1)}, other
    )
    with pytest.raises(
        CheckpointError, match=r"replaces head\.head\.weight, which b\.safetensors changes too"
    ):
        _merge(tiny.dit, LoraSource(path=path), LoraSource(path=other))


def test_a_value_that_is_no_number_is_found_by_its_name_when_it_is_added(tiny: Any, tmp_path: Path) -> None:
    lora = _named(tiny.dit, "comfy")
    lora[f"diffusion_model.{_FFN}.lora_B.weight"][3, 1] = float("inf")
    path = tmp_path / "lora.safetensors"
    save_file(lora, path)
    with pytest.raises(CheckpointError, match=rf"lora\.safetensors: diffusion_model\.{_FFN}\.lora_B\.weight"):
        _merge(tiny.dit, LoraSource(path=path))


@pytest.mark.parametrize("multiplier", [0.0, math.nan, math.inf, 1e6, -1e6])
def test_a_scale_that_cannot_act_is_refused(multiplier: float) -> None:
    with pytest.raises(ValueError, match="give a number other than 0"):
        LoraSource(path=Path("lora.pt"), multiplier=multiplier)


def test_a_directory_of_several_loras_asks_which(tiny: Any, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(_named(tiny.dit, "peft"), tmp_path / name)
    with pytest.raises(CheckpointError, match="2 LoRA files in this directory; give the file that is meant"):
        _merge(tiny.dit, LoraSource(path=tmp_path))
