"""The transformer of a checkpoint, in any of the usual layouts: found by tensor names, chosen by its role.

Training programs wrap a transformer in dictionaries (`generator`, `state_dict`, `module`), in modules
(`model.`, `module.`, `model.diffusion_model.`) and in wrappers of their own (`_orig_mod.`). All of these are
a prefix before the names that the transformer must have. Every prefix with most of these names is a
candidate. Among the candidates, averaged weights are recognised by words such as `ema`, and networks that
only help in training by names such as `critic` or `fake_score`. An ambiguous checkpoint is refused. Notes say
what was left out.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from shotstream.model.config import DiTConfig
from shotstream.weights.eight_bit_weights import unscaled, with_scales
from shotstream.weights.file_kinds import CheckpointError, begins_as_pytorch
from shotstream.weights.key_names import dit_names_of_diffusers, dit_shapes
from shotstream.weights.tensor_files import (
    LazyTensor,
    LazyTensors,
    check_tensors,
    index_of_shard,
    lazy_tensor,
    read_pytorch,
    read_safetensors,
    rename,
)

# Prefixes that the wrappers of distributed training and of torch.compile leave in names.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_AVERAGED = re.compile(r"(^|[._-])(ema|average[ds]?|shadow)([._-]|$)", re.IGNORECASE)
_HELPER = re.compile(
    r"(^|[._-])(critic|fake_score|real_score|teacher|discriminator|text_encoder|lora_te\d?)([._-]|$)",
    re.IGNORECASE,
)
_MOST_DEPTH, _MOST_ENTRIES = 8, 1_000_000
_DEEPSPEED = "mp_rank_00_model_states.pt"
# torch's AveragedModel keeps the number of averaged steps beside the `module` that holds the average.
_COUNT_OF_AVERAGE, _AVERAGED_MODULE = "n_averaged", "module."
_QUANTISED = re.compile(
    r"\.(SCB|absmax|quant_map|nested_absmax|quant_state\.\w+|qweight|qzeros|scales|g_idx|weight_format)$"
)
_FURTHER_PARTS = re.compile(
    r"img_emb|[kv]_img|add_[kv]_proj|image_embedder|vace|control|camera|audio|motion|face"
)
_PATCHES = "patch_embedding.weight"
# Numbers that a training program counts inside the network.
_COUNTERS = "accum_"
_BLOCK = re.compile(r"blocks\.(\d+)\.")
# Files that training programs write beside the weights.
_BESIDE_WEIGHTS = (
    "optimizer",
    "scheduler",
    "training_args",
    "rng_state",
    "random_states",
    "scaler",
    "sampler",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Transformer:
    """The tensors of a transformer, read from a checkpoint."""

    tensors: LazyTensors
    """Tensors under ShotStream's names."""
    part: str
    """Prefix of its names in the file; empty if they have none."""
    is_average: bool
    """Whether these are the averaged weights (EMA)."""
    notes: tuple[str, ...]
    """Messages for the user: what was chosen, converted and left out."""


def read_transformer(
    path: Path, config: DiTConfig, *, ema: bool | None = None, keys: tuple[str, ...] = ()
) -> Transformer:
    """Returns the transformer of a checkpoint, under ShotStream's names.

    Args:
        path: A PyTorch or safetensors file, an index of shards, or a directory that holds one of these or a
            DeepSpeed checkpoint.
        config: The sizes that the transformer must have.
        ema: Whether to take the averaged weights; None takes the weights as trained if the file has them.
        keys: Names of the dictionaries that may hold it, the preferred one first; empty text: the file
            itself. Without any, any dictionary may.

    Raises:
        CheckpointError: The file is unreadable or unsafe, holds no such transformer or several, or does not
            fit.
    """
    notes: list[str] = []
    file = _file_of(path)
    unnamed: list[str] = []
    entries = flat_tensors(file, notes, unnamed)
    shapes = dit_shapes(config)
    theirs = dit_names_of_diffusers(config.num_layers)
    counts: dict[tuple[str, bool], int] = {}
    for names, of_diffusers in ((shapes.keys(), False), (theirs.keys() - shapes.keys(), True)):
        for prefix, count in _prefixes(entries, frozenset(names)).items():
            counts[prefix, of_diffusers] = counts.get((prefix, of_diffusers), 0) + count
    is_lora = any("lora_" in name for name in entries)
    if not counts or (is_lora and max(counts.values()) < len(shapes) / 2):
        raise CheckpointError(f"{file}: no transformer inside; {_kind_of_keys(entries, unnamed)}")
    candidates = _candidates(counts, len(shapes))
    averages = {prefix for prefix in candidates if _is_average(prefix, entries)}
    found = sorted(candidates)
    if keys and ema is None:
        prefix = _choose_by_key(found, keys, str(file), notes)
    else:
        prefix = _choose(found, averages, str(file), ema, notes)
    where = f"{file}[{prefix.rstrip('.')}]" if prefix else str(file)
    tensors = {
        name.removeprefix(prefix): tensor for name, tensor in entries.items() if name.startswith(prefix)
    }
    # Another transformer may be nested under the same prefix.
    deeper = tuple(
        other.removeprefix(prefix) for other in candidates if other != prefix and other.startswith(prefix)
    )
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith((*deeper, _COUNTERS))}
    kept, counters = (prefix, *candidates), f"{prefix}{_COUNTERS}"
    num_left = sum(not name.startswith(kept) or name.startswith(counters) for name in entries)
    if candidates[prefix]:
        tensors = rename(tensors, with_scales(theirs))
    tensors = _as_convolution(unscaled(tensors, where, notes), config)
    check_tensors(shapes, tensors, where, _why_not(tensors, shapes, config.num_layers))
    if num_left:
        notes.append(f"{file.name}: {num_left} tensors that are not of this transformer were left out")
    return Transformer(
        tensors=tensors,
        part=prefix.rstrip("."),
        is_average=prefix in averages,
        notes=tuple(notes),
    )


def flat_tensors(file: Path, notes: list[str], unnamed: list[str] | None = None) -> LazyTensors:
    """Returns every tensor of a file by its dotted name, however deep in dictionaries it is.

    Args:
        file: A PyTorch file, recognised by its content, a safetensors file or an index of shards.
        notes: Messages for the user about the file are appended here.
        unnamed: Names of lists of tensors, whose elements have no names, are appended here.

    Raises:
        CheckpointError: The file is unreadable or unsafe, or two tensors have the same name.
    """
    if file.name.endswith(".json") or not file.is_file() or not begins_as_pytorch(file):
        found: Iterator[tuple[str, LazyTensor]] = iter(read_safetensors(file).items())
    else:
        found = _of_dictionary(read_pytorch(file, notes), str(file), [] if unnamed is None else unnamed)
    entries: LazyTensors = {}
    for name, tensor in found:
        plain = name
        for wrapper in _WRAPPERS:
            plain = plain.replace(wrapper, "")
        if plain in entries:
            raise CheckpointError(f"{file}: two tensors are named {plain}; the checkpoint is damaged")
        entries[plain] = tensor
    return entries


def _of_dictionary(
    content: Mapping[Any, Any], where: str, unnamed: list[str]
) -> Iterator[tuple[str, LazyTensor]]:
    num_entries = 0
    waiting: list[tuple[str, int, Mapping[Any, Any]]] = [("", 0, content)]
    while waiting:
        at, depth, inside = waiting.pop(0)
        for key, value in inside.items():
            num_entries += 1
            if num_entries > _MOST_ENTRIES or depth > _MOST_DEPTH:
                raise CheckpointError(
                    f"{where}: dictionaries nested without end; it is not a checkpoint of a model"
                )
            name = f"{at}{key}"
            if isinstance(value, Tensor):
                yield name, lazy_tensor(name, value, where)
            elif isinstance(value, Mapping):
                waiting.append((f"{name}.", depth + 1, value))
            elif isinstance(value, list | tuple) and any(isinstance(one, Tensor | Mapping) for one in value):
                unnamed.append(name)


def _file_of(path: Path) -> Path:
    """Returns the file to read: that of a directory, the index of a shard, or the path itself."""
    if not path.is_dir():
        index = index_of_shard(path)
        return path if index is None else index
    latest = path / "latest"  # DeepSpeed's file with the name of the newest checkpoint in this directory
    if latest.is_file():
        tag = latest.read_bytes()[:200].decode(errors="replace").strip()
        if tag and Path(tag).name == tag and (path / tag).is_dir():
            path = path / tag
    if (path / _DEEPSPEED).is_file():
        return path / _DEEPSPEED
    if any(path.glob("*zero_pp_rank_*")):
        raise CheckpointError(
            f"{path}: a checkpoint of DeepSpeed whose weights are cut among its processes (ZeRO 3); run the "
            "zero_to_fp32.py that DeepSpeed puts beside it, and give the file that it writes"
        )
    if (path / ".metadata").is_file():
        raise CheckpointError(
            f"{path}: a distributed checkpoint of PyTorch, cut among its processes; save the model whole "
            "where it was trained (get_model_state_dict with full_state_dict=True) and give that file"
        )
    found = sorted(path.glob("*.index.json")) or sorted(path.glob("*.safetensors")) or _pytorch_files(path)
    for file in found:
        index_of_shard(file)  # without its index a shard is not a choice
    if len(found) == 1:
        return found[0]
    if not found and (path / "transformer").is_dir():
        return _file_of(path / "transformer")
    if not found:
        raise CheckpointError(f"{path}: no file of weights in this directory")
    raise CheckpointError(
        f"{path}: {len(found)} files of weights ({', '.join(file.name for file in found[:3])}); give one of "
        "them"
    )


def _pytorch_files(directory: Path) -> list[Path]:
    found = (file for file in directory.iterdir() if file.suffix in (".pt", ".pth", ".bin", ".ckpt"))
    return sorted(file for file in found if not file.name.startswith(_BESIDE_WEIGHTS))


def _prefixes(entries: LazyTensors, names: frozenset[str]) -> dict[str, int]:
    """Returns the number of a transformer's names behind each prefix."""
    counts: dict[str, int] = {}
    for entry in entries:
        parts = entry.split(".")
        for at in range(len(parts) - 1):
            if ".".join(parts[at:]) in names:
                prefix = "".join(f"{part}." for part in parts[:at])
                counts[prefix] = counts.get(prefix, 0) + 1
                break
    return counts


def _candidates(counts: Mapping[tuple[str, bool], int], num_names: int) -> dict[str, bool]:
    """Returns the prefixes of possible transformers, and whether each has diffusers' names.

    Some names are the same in both layouts; the layout that accounts for more of the tensors is the file's.
    """
    best: dict[str, tuple[int, bool]] = {}
    for (prefix, of_diffusers), count in counts.items():
        if count > best.get(prefix, (0, False))[0]:
            best[prefix] = count, of_diffusers
    enough = min(num_names / 2, max(count for count, _ in best.values()))
    return {prefix: of_diffusers for prefix, (count, of_diffusers) in best.items() if count >= enough}


def _is_average(prefix: str, entries: LazyTensors) -> bool:
    counted = f"{prefix.removesuffix(_AVERAGED_MODULE)}{_COUNT_OF_AVERAGE}"
    return bool(_AVERAGED.search(prefix)) or (prefix.endswith(_AVERAGED_MODULE) and counted in entries)


def _choose(found: list[str], averaged: set[str], where: str, ema: bool | None, notes: list[str]) -> str:
    """Returns the prefix to read, of those of all transformers found."""
    helpers = [prefix for prefix in found if is_of_helper(prefix)]
    averages = [prefix for prefix in found if prefix not in helpers and prefix in averaged]
    trained = [prefix for prefix in found if prefix not in helpers and prefix not in averages]
    if not averages and not trained:
        raise CheckpointError(
            f"{where}: no generator inside, only {_in_words(helpers)}, which made no film; give the "
            "checkpoint of the generator"
        )
    wanted = averages if ema or (ema is None and not trained) else trained
    if not wanted:
        other = averages if averages else trained
        raise CheckpointError(
            f"{where}: no {'averaged' if ema else 'trained'} weights inside, only "
            f"{'averaged' if averages else 'trained'} ones ({_in_words(other)}); "
            f"leave {'--ema' if ema else '--no-ema'} out to take them"
        )
    if len(wanted) > 1:
        # A training program may keep its initial weights under another name beside its generator.
        wanted = [prefix for prefix in wanted if "generator" in re.split(r"[._]", prefix)] or wanted
    if len(wanted) > 1:
        raise CheckpointError(
            f"{where}: {len(wanted)} transformers inside ({_in_words(wanted)}), and nothing says which one "
            "is meant; save only one of them and give that file"
        )
    is_average = wanted == averages
    taken = (
        f"taken: {_in_words(wanted)}, the {'average over training' if is_average else 'weights as trained'}"
    )
    if ema is None and averages and trained:
        taken += f"; the file also holds the average ({_in_words(averages)}), which --ema takes"
    elif ema is None and is_average:
        taken += ", for the file holds no other"
    notes.append(f"{Path(where).name}: {taken}")
    return wanted[0]


def is_of_helper(prefix: str) -> bool:
    """Returns whether a prefix belongs to a network that only helps in training: a critic, a teacher."""
    return _HELPER.search(prefix) is not None


def _choose_by_key(found: list[str], keys: tuple[str, ...], where: str, notes: list[str]) -> str:
    """Returns the prefix of the first of `keys` that holds a transformer."""
    held = {_dictionary_of(prefix): prefix for prefix in reversed(found)}
    key = next((key for key in keys if key in held), None)
    if key is None:
        raise CheckpointError(
            f"{where}: the file holds {_in_words(found)}, and this model's weights are in "
            f"{_in_words([*keys])}; it is the file of another model"
        )
    notes.append(f"{Path(where).name}: taken: {_in_words([held[key]])}")
    return held[key]


def _dictionary_of(prefix: str) -> str:
    """Returns the name of the dictionary at the top of a file; empty for names of a bare model."""
    head = prefix.partition(".")[0]
    return "" if head == "model" else head


def _as_convolution(tensors: LazyTensors, config: DiTConfig) -> LazyTensors:
    """Returns the tensors with the patch embedding as a convolution, if it is stored as a matrix."""
    weight = tensors.get(_PATCHES)
    shape = (config.dim, config.latent_channels, 1, config.patch_size, config.patch_size)
    if weight is None or weight.shape != (config.dim, math.prod(shape[1:])):
        return tensors
    convolution = LazyTensor(shape=shape, dtype=weight.dtype, load=lambda: weight.load().reshape(shape))
    return {**tensors, _PATCHES: convolution}


def _in_words(prefixes: list[str]) -> str:
    return ", ".join(prefix.rstrip(".") or "the bare weights" for prefix in prefixes)


def _why_not(tensors: LazyTensors, shapes: Mapping[str, tuple[int, ...]], num_layers: int) -> str:
    """Returns the reason why a transformer's names or shapes are not the expected ones."""
    extra, common = tensors.keys() - shapes.keys(), tensors.keys() & shapes.keys()
    if any(_QUANTISED.search(name) for name in extra):
        return (
            "its weights are quantised in a way that is not read; give the model's weights in 16 or 32 bits"
        )
    blocks = {int(found[1]) for name in tensors if (found := _BLOCK.match(name))}
    if blocks == set(range(num_layers)):
        if any(_FURTHER_PARTS.search(name) for name in extra):
            return (
                "it is a transformer for more than text (image to video, control and the like), another model"
            )
        if all(tensors[name].shape == shapes[name] for name in common) and not extra:
            return "it is incomplete; fetch it again, or save it again where it was made"
    return "it belongs to a transformer of other sizes"


def _kind_of_keys(entries: LazyTensors, unnamed: list[str]) -> str:
    if not entries and unnamed:
        return (
            f"its tensors are in a list ({unnamed[0]}), where nothing says which is which; save the model's "
            "state_dict"
        )
    if not entries:
        return "it holds no tensor at all"
    if any("lora_" in name or ".lora" in name for name in entries):
        return "it holds a LoRA: give it with --lora"
    if any("flat_param" in name for name in entries):
        return "its weights are FSDP shards; save the full model where it was trained"
    shown = sorted(entries)[:3]
    return f"its {len(entries)} tensors are named {', '.join(shown)}{', ...' if len(entries) > 3 else ''}"
