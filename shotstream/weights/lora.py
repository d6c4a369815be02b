"""LoRA files of all common programs, merged into a transformer at the strength they were made for.

W becomes W + multiplier * (alpha / rank) * up @ down. Rank is a dimension of the tensors; alpha is not, and
each program stores it elsewhere:

    kohya, ComfyUI     `<module>.lora_down.weight`, `.lora_up.weight`, a tensor `<module>.alpha`; else the
                       metadata `ss_network_alpha`; kohya writes module names with `_` for `.`
    PEFT               `base_model.model.<module>.lora_A.weight`, `.lora_B.weight`; `adapter_config.json`
                       beside the file (lora_alpha, alpha_pattern, use_rslora: alpha / sqrt(rank))
    diffusers          `transformer.<module>.lora_A.weight` with its own module names; PEFT's config in the
                       metadata
    training programs  PEFT's names in a `.pt`, bare or under `generator_lora`, perhaps with the config

If a file does not give alpha, alpha = rank is used, as in ComfyUI and diffusers, and a note says so. Sums are
computed in float64 and rounded once, so the order of several LoRAs does not matter. Refused by name: DoRA,
LoHa, LoKr and other adapters that are not such a product, LoRAs that were trained against changed base
weights, and every tensor that would otherwise be ignored.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from shotstream.weights.checkpoints import flat_tensors, is_of_helper
from shotstream.weights.eight_bit_weights import widened
from shotstream.weights.file_kinds import CheckpointError, begins_as_pytorch
from shotstream.weights.key_names import dit_names_of_diffusers
from shotstream.weights.lora_config import AdapterConfig, config_beside, config_inside, config_of_metadata
from shotstream.weights.tensor_files import (
    LazyTensor,
    LazyTensors,
    safetensors_metadata,
    sound,
)

_NUM_SHOWN = 3
_MOST_SCALE = 1000.0
"""Maximum of alpha / rank; more means a damaged file, since programs offer at most alpha 256 at rank 1."""
_MOST_MULTIPLIER = 100.0
# The kind of a tensor, by the end of its name, which may contain the adapter's name.
_ENDS = (
    ("down", re.compile(r"(.+)\.(?:lora_A|lora_down|lora\.down)(?:\.\w+)?\.weight")),
    ("up", re.compile(r"(.+)\.(?:lora_B|lora_up|lora\.up)(?:\.\w+)?\.weight")),
    ("alpha", re.compile(r"(.+)\.(?:lora_)?alpha")),
    ("diff", re.compile(r"(.+)\.diff")),
    ("diff_b", re.compile(r"(.+)\.diff_b")),
    ("whole", re.compile(r"(.+?)(?:\.modules_to_save\.\w+)?\.(?:weight|bias)")),
)
_OTHER_ADAPTERS = (
    (re.compile(r"lora_magnitude_vector|dora_scale|\.w_norm_scale"), "DoRA"),
    (re.compile(r"\.hada_"), "LoHa"),
    (re.compile(r"\.lokr_"), "LoKr"),
    (re.compile(r"\.(oft_|oft_diag|boft_)"), "OFT"),
    (re.compile(r"\.(lora_mid|lora_t)"), "a LoRA in Tucker form"),
    (re.compile(r"\.(w_norm|b_norm)$"), "a norm adapter of LyCORIS"),
    (re.compile(r"\.(set_weight|reshape_weight)$"), "a change of whole weights"),
    (re.compile(r"\.lora_embedding_[AB]"), "a LoRA of an embedding"),
    (re.compile(r"\.(lora_B|lora_up)(\.\w+)?\.bias$"), "a LoRA with biases"),
    (re.compile(r"\.diff_m$"), "a change of the modulation"),
    (re.compile(r"\.scalar$"), "a LoRA of LyCORIS with a learnt strength"),
    (re.compile(r"\.(ia3_l|vera_lambda|lora_E|ranknum)"), "an adapter that is no LoRA"),
)
_FLAT = re.compile(r"(?:lora_unet|lora_transformer|lora_dit|lycoris)_(.+)")
_CONTAINERS = ("generator_lora", "lora", "lora_state_dict", "state_dict", "adapter", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSource:
    """A LoRA to merge: its file and its strength."""

    path: Path
    """A safetensors or PyTorch file, or a PEFT or diffusers directory of one."""
    multiplier: float = 1.0
    """Factor on the strength given by the file, in [-100, 100] and not 0; 1 is the intended strength."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.multiplier) or not 0 < abs(self.multiplier) <= _MOST_MULTIPLIER:
            raise ValueError(
                f"a LoRA's scale is {self.multiplier}; give a number other than 0, at most "
                f"{_MOST_MULTIPLIER:g} either way (1: as the file says)"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """The changes of a LoRA to the weights of a transformer."""

    name: str
    """Name of the file."""
    deltas: Mapping[str, Callable[[], Tensor]]
    """Function that returns what is added to a weight, in float64 and with the multiplier, by ShotStream's
    name of the weight.
    """
    wholes: LazyTensors
    """Weights that replace those of the transformer; PEFT calls them `modules_to_save`."""
    strengths: tuple[float, ...]
    """alpha / rank, or alpha / sqrt(rank), of its modules; each value once, in ascending order."""
    note: str
    """Message for the user: what was read, and where its strength comes from."""


@dataclass(kw_only=True, slots=True)
class _Module:
    """The tensors of one adapted module."""

    key: str = ""
    """Name of the module in the file, without prefix and suffix."""
    parts: dict[str, tuple[str, LazyTensor]] = field(default_factory=dict[str, tuple[str, LazyTensor]])
    """Name in the file and tensor, by kind of tensor."""


def read_lora(source: LoraSource, weights: LazyTensors) -> Lora:
    """Returns a LoRA, checked against the transformer that it is for; nothing is merged yet.

    Args:
        source: The file and the strength.
        weights: The transformer's tensors under ShotStream's names.

    Raises:
        CheckpointError: The file is not a LoRA, is of another kind or for another model, or is incomplete.
    """
    file, config = _file_and_config(source.path)
    notes: list[str] = []
    entries = _adapter_entries(flat_tensors(file, notes), str(file))
    modules = _by_module(widened(entries, str(file)), weights, str(file))
    deltas: dict[str, Callable[[], Tensor]] = {}
    wholes: LazyTensors = {}
    strengths: set[float] = set()
    origins: set[str] = set()
    for ours, module in modules.items():
        if "whole" in module.parts:
            wholes[ours] = _whole(ours, module, weights, source, str(file))
        elif "diff" in module.parts:
            deltas[ours] = _difference(ours, module, weights[ours], source.multiplier, str(file))
        else:
            strength, origin = _strength(module, config, str(file))
            strengths.add(strength)
            origins.add(origin)
            deltas[ours] = _product(ours, module, weights[ours], source.multiplier * strength, str(file))
    told = [f"{file.name}: changes {len(deltas) + len(wholes)} tensors"]
    if strengths:
        shown = sorted({f"{value:.4g}" for value in strengths}, key=float)
        told.append(
            f"strength {', '.join(shown[:_NUM_SHOWN])}{', ...' if len(shown) > _NUM_SHOWN else ''} "
            f"({'; '.join(sorted(origins))})"
        )
    if source.multiplier != 1:
        told.append(f"times your {source.multiplier:g}")
    return Lora(
        name=file.name,
        deltas=deltas,
        wholes=wholes,
        strengths=tuple(sorted(strengths)),
        note="; ".join([", ".join(told), *notes]),
    )


def merge_loras(weights: LazyTensors, loras: Sequence[Lora]) -> LazyTensors:
    """Returns the weights with all LoRAs added, computed in float64 and rounded once to each weight's dtype.

    Raises:
        CheckpointError: Two LoRAs replace the same weight, or one adds to a weight that another replaces.
    """
    merged = dict(weights)
    for lora in loras:
        for name, whole in lora.wholes.items():
            others = [
                other.name for other in loras if other is not lora and name in (*other.deltas, *other.wholes)
            ]
            if others:
                raise CheckpointError(
                    f"{lora.name}: replaces {name}, which {others[0]} changes too; the two cannot be added up"
                )
            merged[name] = whole.to(weights[name].dtype)
    for name in {name for lora in loras for name in lora.deltas}:
        added = [lora.deltas[name] for lora in loras if name in lora.deltas]
        merged[name] = _merged(weights[name], added)
    return merged


def _merged(base: LazyTensor, added: Sequence[Callable[[], Tensor]]) -> LazyTensor:
    def load() -> Tensor:
        total = base.load().double()
        for delta in added:
            total += delta()
        return total.to(base.dtype)

    return replace(base, load=load)


def _file_and_config(path: Path) -> tuple[Path, AdapterConfig | None]:
    """Returns the file with the tensors, and the config that gives alpha outside them; None without one."""
    file = path
    if path.is_dir():
        names = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors")
        found = [path / name for name in names if (path / name).is_file()] or sorted(
            path.glob("*.safetensors")
        )
        if len(found) != 1:
            raise CheckpointError(
                f"{path}: {len(found)} LoRA files in this directory; give the file that is meant"
            )
        file = found[0]
    if file.is_file() and begins_as_pytorch(file):
        return file, config_inside(file) or config_beside(file)
    return file, config_of_metadata(safetensors_metadata(file), str(file)) or config_beside(file)


def _adapter_entries(entries: LazyTensors, where: str) -> LazyTensors:
    """Returns the tensors of the one adapter in a file, without the name of the dictionary that holds it."""
    for pattern, kind in _OTHER_ADAPTERS:
        found = next((name for name in entries if pattern.search(name)), None)
        if found is not None:
            raise CheckpointError(
                f"{where}: {kind} ({found}), which cannot be added to weights as a LoRA is; merge it where "
                "it was trained, and give the merged checkpoint with --checkpoint"
            )
    heads = {name.partition(".")[0] for name in entries if "lora" in name.lower()}
    for container in _CONTAINERS:
        # A training checkpoint has one container per network: the critic's adapter must not be merged.
        inside = {
            n.removeprefix(f"{container}."): t for n, t in entries.items() if n.startswith(f"{container}.")
        }
        if inside and container in heads and (len(heads) > 1 or container == "generator_lora"):
            return inside
    if not entries:
        raise CheckpointError(f"{where}: no LoRA tensor inside")
    return entries


def _by_module(entries: LazyTensors, weights: LazyTensors, where: str) -> dict[str, _Module]:
    """Returns the tensors of a file by the weight of the transformer that they change."""
    table = _module_names(weights)
    modules: dict[str, _Module] = {}
    unknown: list[str] = []
    prefixes: set[str] = set()
    for name, tensor in entries.items():
        kind, stem = _kind_and_stem(name)
        if kind is None or stem is None:
            unknown.append(name)
            continue
        found = _find(stem, table)
        if found is None:
            unknown.append(name)
            continue
        prefix, key, ours = found
        prefixes.add(prefix)
        target = f"{ours}.{'bias' if kind == 'diff_b' or name.endswith('.bias') else 'weight'}"
        if target not in weights:
            unknown.append(name)
            continue
        kept = "diff" if kind == "diff_b" else kind
        if kept == "whole" and "base_model." not in prefix:
            unknown.append(name)
            continue
        module = modules.setdefault(target, _Module(key=f"{prefix}{key}"))
        if kept in module.parts:
            raise CheckpointError(
                f"{where}: {module.parts[kept][0]} and {name} are for the same weight; give a file of one "
                "LoRA"
            )
        module.parts[kept] = name, tensor
    if unknown:
        raise CheckpointError(_unknown_in_words(unknown, len(entries), where))
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{where}: LoRAs of several networks ({', '.join(sorted(prefixes))}); give a file of one"
        )
    for target, module in modules.items():
        _check_parts(target, module, where)
    return modules


def _kind_and_stem(name: str) -> tuple[str | None, str | None]:
    for kind, pattern in _ENDS:
        match = pattern.fullmatch(name)
        if match is not None:
            return kind, match[1]
    return None, None


def _module_names(weights: LazyTensors) -> dict[str, str]:
    """Returns ShotStream's module names by those in LoRAs: its own, diffusers', and both with `_` for `.`."""
    ours = {name.rpartition(".")[0] for name in weights if name.endswith((".weight", ".bias"))}
    num_layers = 1 + max((int(name.split(".")[1]) for name in ours if name.startswith("blocks.")), default=-1)
    theirs = {
        a.rpartition(".")[0]: b.rpartition(".")[0]
        for a, b in dit_names_of_diffusers(num_layers).items()
        if a.endswith((".weight", ".bias"))
    }
    names = {name: name for name in ours} | {a: b for a, b in theirs.items() if b in ours}
    return names | {name.replace(".", "_"): target for name, target in names.items()}


def _find(stem: str, table: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Returns the prefix before a module's name, its name in the file, and ShotStream's name, or None."""
    flat = _FLAT.fullmatch(stem)
    if flat is not None:
        ours = table.get(flat[1])
        return None if ours is None else ("", ours, ours)
    parts = stem.split(".")
    for at in range(len(parts)):
        key = ".".join(parts[at:])
        if key in table:
            prefix = "".join(f"{part}." for part in parts[:at])
            return None if is_of_helper(prefix) else (prefix, key, table[key])
    return None


def _unknown_in_words(unknown: Sequence[str], num_all: int, where: str) -> str:
    shown = ", ".join(sorted(unknown)[:_NUM_SHOWN]) + (", ..." if len(unknown) > _NUM_SHOWN else "")
    if len(unknown) == num_all and not any("lora" in name.lower() or ".diff" in name for name in unknown):
        return (
            f"{where}: no LoRA tensor inside, but {shown}; a LoRA has <module>.lora_A.weight and lora_B, or "
            "lora_down and lora_up (a whole transformer is given with --checkpoint)"
        )
    return (
        f"{where}: {len(unknown)} of {num_all} tensors fit nothing in this transformer ({shown}); it is for "
        "another model, or for its text encoder too, and would not act as it was made to"
    )


def _check_parts(target: str, module: _Module, where: str) -> None:
    parts = module.parts.keys()
    if parts in ({"down", "up"}, {"down", "up", "alpha"}, {"diff"}, {"whole"}):
        return
    if parts == {"diff", "alpha"}:
        return
    if "down" in parts and "up" in parts:
        raise CheckpointError(
            f"{where}: {target} is changed twice, by a LoRA and by "
            f"{module.parts[min(parts & {'diff', 'whole'})][0]}"
        )
    present = ", ".join(name for name, _ in module.parts.values())
    lacking = "lora_B (lora_up)" if "down" in parts else "lora_A (lora_down)"
    raise CheckpointError(f"{where}: {target} has only {present} and no {lacking}; the file is incomplete")


def _strength(module: _Module, config: AdapterConfig | None, where: str) -> tuple[float, str]:
    """Returns alpha / rank of a module (or alpha / sqrt(rank)), and where alpha was found."""
    _, down = module.parts["down"]
    rank = down.shape[0] if down.shape else 0
    if rank < 1:
        raise CheckpointError(f"{where}: {module.parts['down'][0]} has no rank; the file is damaged")
    if "alpha" in module.parts:
        name, tensor = module.parts["alpha"]
        strength, origin = _scalar(name, tensor, where) / rank, f"its alpha tensors over rank {rank}"
    elif config is not None:
        strength, origin = config.strength(module.key, rank)
    else:
        return 1.0, f"rank {rank}; the file says no alpha, so alpha = rank is taken; --lora-scale changes it"
    if not 0 < strength <= _MOST_SCALE:
        raise CheckpointError(
            f"{where}: the strength of {module.key} would be {strength:.3g}; no LoRA is made for that, the "
            "file or its config is damaged"
        )
    return strength, origin


def _scalar(name: str, tensor: LazyTensor, where: str) -> float:
    if tensor.dtype == torch.bool or tensor.dtype.is_complex or tensor.shape not in ((), (1,)):
        raise CheckpointError(f"{where}: {name} is not a single number; the file is damaged")
    value = float(tensor.load())
    if not math.isfinite(value) or value <= 0:
        raise CheckpointError(f"{where}: {name} is {value:g}; an alpha is above 0")
    return value


def _product(
    target: str, module: _Module, base: LazyTensor, scale: float, where: str
) -> Callable[[], Tensor]:
    """Returns a function for scale * up @ down in the base weight's shape; convolutions are flattened."""
    names = {kind: module.parts[kind][0] for kind in ("down", "up")}
    halves = sound({names[kind]: module.parts[kind][1] for kind in names}, where)
    down, up = halves[names["down"]], halves[names["up"]]
    have_sides = min(len(base.shape), len(down.shape), len(up.shape)) >= 2 and math.prod(up.shape[2:]) == 1
    sides = (base.shape[0], math.prod(base.shape[1:]))
    if not have_sides or (up.shape[0], math.prod(down.shape[1:])) != sides:
        raise CheckpointError(
            f"{where}: {list(up.shape)} x {list(down.shape)} does not fit {target} {list(base.shape)}; "
            "it is for another model"
        )
    if down.shape[0] != up.shape[1]:
        raise CheckpointError(
            f"{where}: {names['down']} has rank {down.shape[0]} and {names['up']} rank {up.shape[1]}; they "
            "are halves of two LoRAs"
        )

    def load() -> Tensor:
        product = up.load().double().flatten(1) @ down.load().double().flatten(1)
        return (scale * product).reshape(base.shape)

    return load


def _difference(
    target: str, module: _Module, base: LazyTensor, multiplier: float, where: str
) -> Callable[[], Tensor]:
    name, tensor = module.parts["diff"]
    lazy = sound({name: tensor}, where)[name]
    if lazy.shape != base.shape:
        raise CheckpointError(
            f"{where}: {name} {list(lazy.shape)} does not fit {target} {list(base.shape)}; it is for "
            "another model"
        )
    return lambda: multiplier * lazy.load().double()


def _whole(ours: str, module: _Module, weights: LazyTensors, source: LoraSource, where: str) -> LazyTensor:
    name, tensor = module.parts["whole"]
    if source.multiplier != 1:
        raise CheckpointError(
            f"{where}: {name} replaces a whole weight, which has no strength; leave --lora-scale out"
        )
    if tensor.shape != weights[ours].shape:
        raise CheckpointError(
            f"{where}: {name} is {list(tensor.shape)} and {ours} is {list(weights[ours].shape)}; it is for "
            "another model"
        )
    return sound({name: tensor}, where)[name]
