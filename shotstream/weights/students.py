"""The students of Wan2.1 that are known here: their published files, their rules, and what was checked.

One entry for each. "Goldens" means that the rules were compared with recorded numbers of the published code,
at tiny sizes and with random weights; a student without goldens follows a description only. None of the real
checkpoints was ever opened.

Source: the repositories that the entries name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from shotstream.model.config import DiTConfig
from shotstream.model.student_rules import StudentRules
from shotstream.weights.file_kinds import CheckpointError

Support = Literal["films", "no"]
Check = Literal["goldens", "described"]

_WARPED = (1000, 750, 500, 250)
_BASE = "Wan-AI/Wan2.1-T2V-1.3B"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedLora:
    """A LoRA that belongs to a student's checkpoint."""

    file: str
    """Path in the repository."""
    rank: int = 256
    """Rank in the published configuration; the file does not hold it."""
    alpha: int = 256
    """Alpha there; the strength is alpha / rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A published student."""

    name: str
    """Name of the imported model."""
    repository: str
    """Repository on the Hugging Face hub."""
    files: tuple[str, ...]
    """Paths of its checkpoints there, alternatives of each other; the first is the usual one."""
    keys: tuple[str, ...]
    """Names of the dictionaries that may hold its weights, the preferred one first; empty text: the file
    itself. Without any, any dictionary may.
    """
    licence: str
    """Licence of the weights, as published."""
    lora: PublishedLora | None = None
    """LoRA that is merged into its weights."""
    base: str = _BASE
    """Repository of the model that it was made from, whose codec and text encoder it uses."""
    parameters: str = "1.3B"
    """Number of parameters of the transformer."""
    chunk_frames: int = 3
    """Number of latent frames that are generated together."""
    num_chunks: int = 7
    """Default length of a shot in chunks."""
    rules: StudentRules | None
    """How it is run; None: with a context, as ShotStream, or not at all."""
    support: Support = "films"
    """Whether films can be made with it."""
    check: Check = "goldens"
    """What its rules were compared with."""
    note: str = ""
    """What an import cannot know, or why the student is not supported; for the user."""

    def config(self, base: DiTConfig) -> DiTConfig:
        """Returns the sizes of the student's transformer, given those of the base model."""
        if self.rules is None:
            return base
        return replace(
            base,
            num_context_frames=0,
            chunk_latent_frames=self.chunk_frames,
            window_chunks=max(1, self.rules.window // self.chunk_frames),
            phase_angle=0.0,
        )


_SELF_FORCING = StudentRules(steps=_WARPED, shift=5.0, window=21, max_frames=21)
_LONGLIVE = StudentRules(steps=_WARPED, shift=5.0, window=12, sink=3, recache="window_keep_sink")
_FRAMEWISE = "frame-wise and chunk-wise checkpoints have the same names and sizes: check that it is this one"
_SAME_SIZES = "checkpoints of other 1.3B students have the same names and sizes: check that it is this one"

_ENTRIES = (
    Student(
        name="shotstream",
        repository="KlingTeam/ShotStream",
        files=("shotstream_merged.pt",),
        keys=(),
        licence="see there",
        rules=None,
    ),
    Student(
        name="self-forcing",
        repository="gdhe17/Self-Forcing",
        files=tuple(f"checkpoints/self_forcing_{kind}.pt" for kind in ("dmd", "sid", "sid_v2", "gan", "10s")),
        keys=("generator_ema", "generator"),
        licence="Apache-2.0",
        rules=_SELF_FORCING,
        note=_SAME_SIZES,
    ),
    Student(
        name="causal-forcing",
        repository="zhuhz22/Causal-Forcing",
        files=("chunkwise/causal_forcing.pt",),
        keys=("generator",),
        licence="Apache-2.0",
        rules=_SELF_FORCING,
        note=_FRAMEWISE,
    ),
    Student(
        name="causal-forcing-framewise",
        repository="zhuhz22/Causal-Forcing",
        files=("framewise/causal_forcing.pt",),
        keys=("generator_ema",),
        licence="Apache-2.0",
        chunk_frames=1,
        num_chunks=21,
        rules=_SELF_FORCING,
        note=_FRAMEWISE,
    ),
    Student(
        name="causal-forcing-2step",
        repository="zhuhz22/Causal-Forcing",
        files=("causal-forcing++/framewise-2step.pt",),
        keys=("generator_ema",),
        licence="Apache-2.0",
        chunk_frames=1,
        num_chunks=21,
        rules=replace(_SELF_FORCING, steps=(1000, 500), first_chunk_steps=_WARPED),
        note=_FRAMEWISE,
    ),
    Student(
        name="causal-forcing-1step",
        repository="zhuhz22/Causal-Forcing",
        files=("causal-forcing++/framewise-1step.pt",),
        keys=("generator_ema",),
        licence="Apache-2.0",
        chunk_frames=1,
        num_chunks=21,
        rules=replace(_SELF_FORCING, steps=(1000,), first_chunk_steps=_WARPED),
        note=_FRAMEWISE,
    ),
    Student(
        name="causvid",
        repository="tianweiy/CausVid",
        files=("autoregressive_checkpoint_warp_4step_cfg2/model.pt",),
        keys=("generator",),
        licence="CC BY-NC-SA",
        rules=replace(_SELF_FORCING, shift=8.0),
        note=_SAME_SIZES,
    ),
    Student(
        name="causvid-3step",
        repository="tianweiy/CausVid",
        files=("autoregressive_checkpoint/model.pt",),
        keys=("generator",),
        licence="CC BY-NC-SA",
        rules=replace(_SELF_FORCING, shift=8.0, steps=(1000, 757, 522), step_scale="timestep"),
        note=_SAME_SIZES,
    ),
    Student(
        name="longlive",
        repository="Efficient-Large-Model/LongLive-1.3B",
        files=("models/longlive_base.pt",),
        keys=("generator",),
        lora=PublishedLora(file="models/lora.pt"),
        licence="Apache-2.0",
        rules=_LONGLIVE,
        note=f"some of its source files say CC BY-NC-SA; {_SAME_SIZES}",
    ),
    Student(
        name="memflow",
        repository="KlingTeam/MemFlow",
        files=("base.pt",),
        keys=("generator",),
        lora=PublishedLora(file="lora.pt"),
        licence="Apache-2.0",
        rules=replace(_LONGLIVE, bank=3, record_interval=3),
        note=f"some of its source files say CC BY-NC-SA; {_SAME_SIZES}",
    ),
    Student(
        name="infinity-rope",
        repository="SOTAMak1r/Infinite-Forcing",
        files=("checkpoints/ema_model.pt",),
        keys=("generator_ema", "generator"),
        licence="Apache-2.0",
        rules=StudentRules(
            steps=_WARPED, shift=5.0, window=6, sink=1, rope="cache_relative", cut_position=45
        ),
        note=_SAME_SIZES,
    ),
    Student(
        name="reward-forcing",
        repository="JaydenLu666/Reward-Forcing-T2V-1.3B",
        files=("rewardforcing.pt",),
        keys=("",),
        licence="Apache-2.0",
        rules=StudentRules(steps=_WARPED, shift=5.0, window=9, sink=3, rope="cache_relative", sink_ema=0.999),
        note=_SAME_SIZES,
    ),
    Student(
        name="rolling-forcing",
        repository="TencentARC/RollingForcing",
        files=("checkpoints/rolling_forcing_dmd.pt",),
        keys=("generator_ema", "generator"),
        licence="Tencent's own",
        rules=StudentRules(
            steps=(1000, 800, 600, 400, 200),
            shift=5.0,
            window=21,
            sink=3,
            rope="absolute_moving_anchor",
            rolling=True,
        ),
        note=_SAME_SIZES,
    ),
    Student(
        name="causal-rcm",
        repository="worstcoder/rcm-Wan",
        files=("Causal_rCM_Wan2.1_T2V_1.3B_480p_TF-dCM-init_SF-DMD_c3-3_step4.pt",),
        keys=("net",),
        licence="unverified",
        rules=replace(_SELF_FORCING, steps=(999, 937, 833, 625), step_scale="sigma"),
        check="described",
        note="its levels are published; that it otherwise runs as Self Forcing does is an assumption",
    ),
    Student(
        name="krea-14b",
        repository="krea/krea-realtime-video",
        files=("krea-realtime-video-14b.safetensors",),
        keys=("",),
        licence="CC BY-NC-SA",
        base="Wan-AI/Wan2.1-T2V-14B",
        parameters="14B",
        rules=None,
        support="no",
        check="described",
        note="only its sizes and steps (1000, 937, 833, 625, shift 5) are known; it computes keys again in "
        "every chunk, by a rule that is not known exactly",
    ),
)

STUDENTS: Mapping[str, Student] = MappingProxyType({student.name: student for student in _ENTRIES})
"""The students by name."""


def find_file(student: Student, paths: tuple[str, ...], directory: Path) -> Path | None:
    """Returns one of a student's published files in or below a directory; None if there is none.

    A file at the published path is preferred to one with only its name.

    Raises:
        CheckpointError: There are several with the name, or two of the published alternatives.
    """
    for depth in (2, 1):
        names = ("/".join(Path(path).parts[-depth:]) for path in paths)
        found = sorted({file for name in names for file in directory.rglob(name) if file.is_file()})
        if len(found) > 1:
            shown = ", ".join(str(file) for file in found[:3])
            raise CheckpointError(
                f"{student.name}: {len(found)} files could be its own ({shown}); name it with --checkpoint"
            )
        if found:
            return found[0]
    return None
