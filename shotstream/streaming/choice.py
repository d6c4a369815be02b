"""The choice of `InferenceOptions` from the user's options and the machine: one table, with a reason per row.

The user gives a precision (`--precision`) and a memory level (`--memory`); everything else follows from the
model family, the device and the number of processes. Some things are not in the table because they are never
worse: Wan's convolutions are channels-last; copies to a GPU are from pinned memory; and frames that later
shots may use as context are encoded while the next chunk is generated, one by one, so that a latent does not
depend on the others.

Numbers in the reasons are "measured" on two cores of a CPU (docs/performance.md) or "computed" from
operations and bytes at 832x480. No decision depends on a measurement at run time, so the same machine
generates the same film twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from shotstream.configs import refuse_unknown_words
from shotstream.model.attention import AttentionName
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.pipeline_config import Family

Precision = Literal["auto", "float32", "bfloat16", "float8"]
"""Dtype of the transformer's computation, and of every network in the Wan family; "auto" is chosen by
`choose`.
"""
MemoryLevel = Literal["auto", "low", "lowest"]
"""Level of memory savings. auto: none unless necessary; low: saves memory at the cost of speed; lowest: also
at the cost of some quality.
"""

_FLOAT8_CAPABILITY = (8, 9)
_EIGHT_BIT_CAPABILITY = (9, 0)
"""Minimum compute capability for 8-bit attention; earlier GPUs have too little shared memory."""
_EIGHT_BIT: AttentionName = "eight-bit"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expert:
    """Options that override the table; None leaves the choice to it."""

    attention: AttentionName | None = None
    """Kernel of self-attention."""
    compile: bool | None = None
    """Whether the transformer's blocks are compiled."""
    overlap: bool | None = None
    """Whether each chunk is denoised while the previous one is decoded and used."""
    codec_device: str | None = None
    """A separate device for the codec and the text encoder."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)


NO_EXPERT = Expert()


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The user's options for running a model."""

    precision: Precision = "auto"
    """Precision of the computation. "auto" is float32, and bfloat16 for the Wan family on a GPU. "float8"
    multiplies in eight bits: its films are those of another model.
    """
    memory: MemoryLevel = "auto"
    """Memory level. "auto" keeps everything on the device if it fits there, else takes the first level that
    fits.
    """
    expert: Expert = NO_EXPERT
    """Options that override the choice."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The properties of the machine that the choice depends on."""

    device_type: str
    """Type of the device: cpu or cuda."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of the GPU; (0, 0) for a CPU."""
    free_bytes: int | None = None
    """Free memory of the GPU before anything is loaded; None: unlimited, as for a CPU."""
    num_gpus: int = 0
    """Number of GPUs in the machine."""
    num_processes: int = 1
    """Number of processes that generate each chunk together."""
    num_cores: int = 1
    """Number of cores that the process may use."""
    num_threads: int | None = None
    """Number of threads set by the user (OMP_NUM_THREADS); None: not set."""

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device_type == "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The result of the choice: how a model is run, and messages for the user."""

    dtype: torch.dtype
    """Dtype of the computation."""
    inference_options: InferenceOptions
    """All other options."""
    told: tuple[str, ...] = ()
    """Messages for the user; may be empty."""


@dataclass(frozen=True, slots=True)
class Case:
    """The facts that the conditions of the table use."""

    family: Family
    machine: Machine
    precision: Precision
    is_alone: bool
    """Whether a single process generates each chunk."""

    @property
    def chooses_threads(self) -> bool:
        """Whether the number of threads is chosen by the table.

        It is chosen only where more than one thread is hardly faster and can be much slower.
        """
        return self.family == "theatre" and not self.machine.is_gpu and self.machine.num_threads is None

    @property
    def has_spare_core(self) -> bool:
        """Whether something can run beside a pass without slowing it down."""
        machine = self.machine
        used = 1 if self.chooses_threads else machine.num_threads or machine.num_cores
        return machine.is_gpu or used < machine.num_cores

    @property
    def is_wan_on_gpu(self) -> bool:
        """Whether the model is large and on a GPU, the case for which most options exist."""
        return self.family == "wan" and self.machine.is_gpu


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: the value of an option, its condition and its reason."""

    switch: str
    value: Any
    when: Callable[[Case], bool]
    why: str


TABLE: tuple[Row, ...] = (
    Row(
        "attention",
        "cudnn",
        lambda case: (
            case.is_wan_on_gpu
            and case.machine.capability >= (9, 0)
            and case.precision in ("auto", "bfloat16")
        ),
        "cuDNN's kernels use what Hopper and later have, torch's own choice does not; computed: 540 Tflop/s "
        "for about 400. Earlier GPUs keep torch's choice",
    ),
    Row(
        "compile",
        True,
        lambda case: (case.is_wan_on_gpu or _multiplies_float8(case)) and case.is_alone,
        "fuses norms, modulation and rounding; computed: 21 to 22.5 frames per second, and float8 is slower "
        "than bfloat16 without. On the theatre measured 0.97. Processes exchange tensors inside a block",
    ),
    Row(
        "chunk_decode",
        True,
        lambda case: case.family == "wan",
        "a third of the launches on a GPU; on a CPU measured 1.04, with the channels of a pixel together",
    ),
    Row(
        "cudnn_benchmark",
        True,
        lambda case: case.is_wan_on_gpu,
        "few shapes, met thousands of times: trying pays; it is done in the warm-up",
    ),
    Row(
        "num_threads",
        1,
        lambda case: case.chooses_threads,
        "a pass is 45 rows long, and each of its hundred parallel regions waits for the slowest thread: on "
        "two cores that other programs hold, two threads were measured at a tenth of one thread's speed",
    ),
    Row(
        "overlap_chunks",
        True,
        lambda case: case.is_alone and case.has_spare_core,
        "decoding and whatever the caller does run beside the next chunk; measured 1.37 on the theatre with "
        "a core to spare, none to win without one; computed 1.03 on a GPU, more with a codec of its own",
    ),
)

_LOW: Mapping[str, Any] = {"chunk_decode": False, "overlap_chunks": False}
_LEVELS: dict[MemoryLevel, Mapping[str, Any]] = {
    "auto": {},
    "low": _LOW,
    "lowest": {**_LOW, "weights": "float8", "float8_cache": True},
}

Needs = Callable[[torch.dtype, InferenceOptions], int]
"""A function that computes the bytes of device memory that a film needs."""


def choose(options: Options, family: Family, machine: Machine, needs: Needs) -> Choice:
    """Returns the choice for a model of `family` on `machine`.

    Raises:
        ValueError: The user's options are not possible on this machine.
    """
    case = Case(family, machine, options.precision, machine.num_processes == 1)
    dtype = _dtype(case)
    told: list[str] = []
    set_: dict[str, Any] = {row.switch: row.value for row in TABLE if row.when(case)}
    if options.precision == "float8":
        set_ |= {"weights": "float8-products"}
        if not machine.is_gpu or machine.capability >= _EIGHT_BIT_CAPABILITY:
            set_ |= {"attention": _EIGHT_BIT}
        if machine.is_gpu and machine.capability < _FLOAT8_CAPABILITY:
            raise ValueError(
                "float8 needs a GPU of compute capability 8.9 or above (this one: "
                f"{'.'.join(map(str, machine.capability))}), or a CPU, where it is slow; give bfloat16"
            )
        if not machine.is_gpu:
            told.append(
                "float8 on a CPU is slow: it shows what eight bits cost in quality, and saves no time"
            )
    set_ |= _expert(options.expert)
    inference_options, line = _fit(options, case, dtype, set_, needs)
    if line:
        told.append(line)
    if (
        case.is_wan_on_gpu
        and case.is_alone
        and machine.num_gpus > 1
        and inference_options.codec_device is None
    ):
        told.append("there is another GPU: --codec-device cuda:1 decodes there beside the next chunk")
    return Choice(dtype=dtype, inference_options=inference_options, told=tuple(told))


def _dtype(case: Case) -> torch.dtype:
    if case.precision == "auto":
        return torch.bfloat16 if case.is_wan_on_gpu else torch.float32
    if case.precision == "float8":
        return torch.bfloat16 if case.machine.is_gpu else torch.float32
    return torch.bfloat16 if case.precision == "bfloat16" else torch.float32


def _multiplies_float8(case: Case) -> bool:
    return case.precision == "float8" and case.machine.is_gpu


def _expert(expert: Expert) -> dict[str, Any]:
    """Returns the inference options that follow from the expert's options."""
    answers = {
        "attention": expert.attention,
        "compile": expert.compile,
        "overlap_chunks": expert.overlap,
        "codec_device": expert.codec_device,
    }
    return {name: value for name, value in answers.items() if value is not None}


def _fit(
    options: Options, case: Case, dtype: torch.dtype, set_: dict[str, Any], needs: Needs
) -> tuple[InferenceOptions, str]:
    """Returns the options of the first memory level that fits, or of the given one; and a message."""
    machine = case.machine

    def at(level: MemoryLevel) -> InferenceOptions:
        given = dict(_LEVELS[level])
        if level != "auto" and case.is_wan_on_gpu:
            given["offload_text"] = True
        # Weights with one byte per value already.
        if "weights" in set_:
            given.pop("weights", None)
        if set_.get("attention") == _EIGHT_BIT:
            given.pop("float8_cache", None)
        if options.expert.overlap is not None:
            given.pop("overlap_chunks", None)
        return InferenceOptions(**{**set_, **given})

    if options.memory != "auto":
        return at(options.memory), f"memory {options.memory}: {_COSTS[options.memory]}"
    if machine.free_bytes is None or not case.is_wan_on_gpu:
        return at("auto"), ""
    free_gb, needed_gb = machine.free_bytes / 1e9, 0.0
    for level in get_args(MemoryLevel):
        inference_options = at(level)
        needed_gb = needs(dtype, inference_options) / 1e9
        if needed_gb <= free_gb:
            used = f"{needed_gb:.1f} GB (computed) of the {free_gb:.1f} GB that are free"
            return inference_options, f"memory {level}, {used}: {_COSTS[level]}"
    return at("lowest"), (
        f"memory lowest, and even that takes {needed_gb:.1f} GB (computed) where {free_gb:.1f} GB are free: "
        "it may end for lack of memory; close what else uses the GPU"
    )


_COSTS: dict[MemoryLevel, str] = {
    "auto": "everything stays on the GPU",
    "low": "the same pictures to rounding, slower",
    "lowest": "pictures change a little, slower",
}
