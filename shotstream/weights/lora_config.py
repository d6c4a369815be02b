"""Configurations of LoRAs: PEFT's beside a file, in its metadata or inside it.

Only the fields that determine the weights are read: alpha, rank, patterns of both, rsLoRA. A setting that
makes a LoRA something else than W + strength * up @ down, or that says it was trained against base weights
other than the published ones, is refused.

Source: the library `peft` (LoraConfig and its `get_pattern_key`), kohya's sd-scripts (`ss_network_alpha`),
the library `diffusers` (`lora_adapter_metadata`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.tensor_files import read_json, read_pytorch

_CONFIG_NAME = "adapter_config.json"
_PEFT_MODEL = re.compile(r"(base_model\.model\.)")
_PLAIN_PATTERN = re.compile(r"\^?(?:[\w.]|\\\.)+")
# Initialisations of a LoRA that do not change the base weights.
_HARMLESS_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal", "default")
# Settings that make an adapter more than a product of two matrices.
_REFUSED = {
    "use_dora": "DoRA",
    "fan_in_fan_out": "transposed weights",
    "lora_bias": "biases",
    "alora_invocation_tokens": "an activation by tokens",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "single parameters",
    "use_qalora": "quantised weights",
    "megatron_config": "Megatron's layers",
    "layer_replication": "layers that were copied",
}
_INSIDE = ("lora_config", "adapter_config", "peft_config", "config")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """The configuration of an adapter: the fields that determine the strength of every module."""

    origin: str
    """Path of the file it was read from, for messages."""
    alpha: float
    """Alpha of the modules that no pattern matches."""
    rank: int | None
    """Rank of the modules that no pattern matches; None: not given, the tensors decide."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict[str, float])
    """Alpha by pattern, a regular expression for the end of a module's name."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rank by pattern, a regular expression for the end of a module's name."""
    use_rslora: bool = False
    """Whether the strength is alpha / sqrt(rank)."""

    def strength(self, module: str, rank: int) -> tuple[float, str]:
        """Returns alpha / rank, or alpha / sqrt(rank), of a module, and a text that says how it was computed.

        Args:
            module: The module's name in the file.
            rank: The rank of its tensors.

        Raises:
            CheckpointError: The config has another rank: it belongs to another file.
        """
        name = _PEFT_MODEL.sub("", module, count=1)
        said = _matching(self.rank_pattern, name, self.rank)
        if said is not None and said != rank:
            raise CheckpointError(
                f"{self.origin}: says rank {said} for {name}, and the tensors have {rank}; it belongs to "
                "another LoRA"
            )
        alpha = _matching(self.alpha_pattern, name, self.alpha)
        below = math.sqrt(rank) if self.use_rslora else rank
        over = f"sqrt({rank}), rsLoRA" if self.use_rslora else f"rank {rank}"
        return alpha / below, f"alpha {alpha:g} of {Path(self.origin).name} over {over}"


def _matching(patterns: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """Returns the value of the first pattern that matches a name's end, as PEFT does; else `otherwise`."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise


def config_beside(file: Path) -> AdapterConfig | None:
    """Returns the configuration in PEFT's `adapter_config.json` beside a file; None without one.

    Raises:
        CheckpointError: It is damaged, or of an adapter that cannot be merged like a LoRA.
    """
    path = file.with_name(_CONFIG_NAME)
    return _of_document(read_json(path), str(path)) if path.is_file() else None


def config_of_metadata(metadata: Mapping[str, str], where: str) -> AdapterConfig | None:
    """Returns the configuration in a safetensors file's metadata (diffusers' or kohya's), or None."""
    if "lora_adapter_metadata" in metadata:
        document = _parsed(metadata["lora_adapter_metadata"], where)
        own = {key.removeprefix("transformer."): value for key, value in document.items()}
        if "lora_alpha" in own:
            return _of_document(own, where)
    alpha = metadata.get("ss_network_alpha", metadata.get("lora_alpha", "None"))
    if alpha in ("None", "", "Dynamic"):
        return None
    rank = metadata.get("ss_network_dim", metadata.get("rank", "None"))
    return AdapterConfig(
        origin=where,
        alpha=_positive(alpha, "alpha", where),
        rank=None if rank in ("None", "", "Dynamic") else int(_positive(rank, "rank", where)),
    )


def config_inside(file: Path) -> AdapterConfig | None:
    """Returns the configuration in a PyTorch file: PEFT's, or alpha and rank alone; None without one."""
    content = read_pytorch(file)
    for key in _INSIDE:
        inner = content.get(key)
        if isinstance(inner, Mapping) and "lora_alpha" in inner:
            return _of_document(inner, str(file))
    alpha = content.get("lora_alpha", content.get("alpha"))
    if not isinstance(alpha, int | float):
        return None
    rank = next((content[key] for key in ("r", "rank", "lora_rank") if key in content), None)
    return AdapterConfig(
        origin=str(file),
        alpha=_positive(alpha, "alpha", str(file)),
        rank=None if rank is None else int(_positive(rank, "rank", str(file))),
    )


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: the LoRA's config in its metadata is not JSON") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{where}: the LoRA's config in its metadata is not a JSON object")
    return document


def _of_document(document: Mapping[str, Any], where: str) -> AdapterConfig:
    kind = document.get("peft_type", "LORA")
    if str(kind).rpartition(".")[2] != "LORA":
        raise CheckpointError(
            f"{where}: an adapter of the kind {kind}, which cannot be added to weights as a LoRA is; merge "
            "it where it was trained, and give the merged checkpoint with --checkpoint"
        )
    for key, what in _REFUSED.items():
        if document.get(key):
            raise CheckpointError(
                f"{where}: {key}: a LoRA with {what}, which is more than W + strength * B @ A; merge it "
                "where it was trained, and give the merged checkpoint with --checkpoint"
            )
    begun = document.get("init_lora_weights")
    if begun not in _HARMLESS_BEGINNINGS:
        raise CheckpointError(
            f"{where}: init_lora_weights is {begun!r}: it was trained against changed base weights, so it "
            "does "
            "not fit the published ones; merge it where it was trained, and give the merged checkpoint with "
            "--checkpoint"
        )
    rslora = document.get("use_rslora", False)
    if not isinstance(rslora, bool):
        raise CheckpointError(f"{where}: use_rslora is {rslora!r}; it is true or false")
    rank = document.get("r")
    return AdapterConfig(
        origin=where,
        # PEFT's own defaults, for a config that leaves them out.
        alpha=_positive(document.get("lora_alpha", 8), "lora_alpha", where),
        rank=None if rank is None else int(_positive(rank, "r", where)),
        alpha_pattern=_patterns(document, "alpha_pattern", where),
        rank_pattern={key: int(value) for key, value in _patterns(document, "rank_pattern", where).items()},
        use_rslora=rslora,
    )


def _patterns(document: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    patterns = document.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise CheckpointError(f"{where}: {key} does not map modules to numbers")
    # An expression could be made to run for hours.
    odd = [str(pattern) for pattern in patterns if not _PLAIN_PATTERN.fullmatch(str(pattern))]
    if odd:
        raise CheckpointError(
            f"{where}: {key} holds the expression {odd[0]!r}; only plain names of modules are read, write "
            "them out"
        )
    return {str(name): _positive(value, f"{key}[{name}]", where) for name, value in patterns.items()}


def _positive(value: object, key: str, where: str) -> float:
    try:
        number = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise CheckpointError(f"{where}: {key} is {value!r}; it is a number above 0")
    return number
