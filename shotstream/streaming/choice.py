"""The choice of `InferenceOptions` for a wish and a machine: one table, each row with its reason.

A person says how precise (`--precision`) and how small (`--memory`); everything else follows from the family,
the device and what runs beside. Some things are not in the table because they are never worse: Wan's
convolutions have the channels of a pixel together; on a GPU what crosses to it goes from pinned memory;
frames that later shots may look back at are encoded while the next chunk is made, and one by one, so that
they do not depend on their company.

Numbers in the reasons: "measured" on two cores of a CPU (docs/performance.md), "computed" from operations and
bytes at 832x480. Nothing is decided by a measurement at run time, so that the same machine makes the same
film twice.
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
"""What the transformer computes in, and in the Wan family every network."""
MemoryLevel = Literal["auto", "low", "lowest"]
"""What is given up for memory: nothing unless it must be; time; time and a little of the pictures."""

_FLOAT8_CAPABILITY = (8, 9)
_EIGHT_BIT_CAPABILITY = (9, 0)
"""Smaller GPUs have not the shared memory that our attention in eight bits takes."""
_EIGHT_BIT: AttentionName = "eight-bit"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expert:
    """Answers that take the place of the table's; None leaves each to it."""

    attention: AttentionName | None = None
    """What computes self-attention."""
    compile: bool | None = None
    """Whether the transformer's blocks are compiled."""
    overlap: bool | None = None
    """Whether each chunk is denoised while the one before is decoded and used."""
    codec_device: str | None = None
    """A device of its own for the codec and the text encoder."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)


NO_EXPERT = Expert()


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of a person who runs a model."""

    precision: Precision = "auto"
    """"auto" is float32, and bfloat16 for the Wan family on a GPU. "float8" multiplies in eight bits: its
    films are those of another model."""
    memory: MemoryLevel = "auto"
    """"auto" keeps everything on the device if it fits there, else takes the first level that does."""
    expert: Expert = NO_EXPERT

    def __post_init__(self) -> None:
        refuse_unknown_words(self)


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine that a model is to run on, as far as the choice depends on it."""

    device_type: str
    """cpu or cuda."""
    capability: tuple[int, int] = (0, 0)
    """Of a GPU: its generation."""
    free_bytes: int | None = None
    """Free on the GPU before anything is loaded; None: not limited, as a CPU's is not."""
    num_gpus: int = 0
    """In the machine."""
    num_processes: int = 1
    """That make each chunk together."""
    num_cores: int = 1
    """That the process may use."""
    num_threads: int | None = None
    """That it was told to compute with (OMP_NUM_THREADS); None: nobody has said."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is one."""
        return self.device_type == "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The result: how a model is run, and what a person should know of it."""

    dtype: torch.dtype
    """What is computed in."""
    inference_options: InferenceOptions
    """Everything else."""
    told: tuple[str, ...] = ()
    """Lines for people; empty where there is nothing to know."""


@dataclass(frozen=True, slots=True)
class Case:
    """The facts that the rows of the table ask for."""

    family: Family
    machine: Machine
    precision: Precision
    is_alone: bool
    """Whether one process makes each chunk."""

    @property
    def chooses_threads(self) -> bool:
        """The one case in which more threads than one make little faster, and much slower."""
        return self.family == "theatre" and not self.machine.is_gpu and self.machine.num_threads is None

    @property
    def has_spare_core(self) -> bool:
        """Whether something can run beside a pass without slowing it down."""
        machine = self.machine
        used = 1 if self.chooses_threads else machine.num_threads or machine.num_cores
        return machine.is_gpu or used < machine.num_cores

    @property
    def is_wan_on_gpu(self) -> bool:
        """The one case that is large enough to be worth trouble."""
        return self.family == "wan" and self.machine.is_gpu


@dataclass(frozen=True, slots=True)
class Row:
    """A switch that is set in some cases, and why."""

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
"""Bytes on the device that a film needs, computed."""


def choose(options: Options, family: Family, machine: Machine, needs: Needs) -> Choice:
    """The choice for a model of `family` on `machine`.

    Raises:
        ValueError: Something that the machine cannot do was asked for.
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
    """The inference options that an expert's answers set, and what follows from them."""
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
    """The first level of memory that fits, or the one asked for; and what there is to say of it."""
    machine = case.machine

    def at(level: MemoryLevel) -> InferenceOptions:
        given = dict(_LEVELS[level])
        if level != "auto" and case.is_wan_on_gpu:
            given["offload_text"] = True
        # What has a byte a number already.
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
