"""What a training run is made from.

A run has one length: its loop's. Whatever way a recipe was made, its stage has that length too.
"""

from dataclasses import dataclass, replace

from shotstream.training.loop import LoopConfig
from shotstream.training.stages.causal_init import CausalInitTraining
from shotstream.training.stages.codec import CodecTraining
from shotstream.training.stages.decoder import DecoderTraining
from shotstream.training.stages.inter_shot import InterShotTraining
from shotstream.training.stages.intra_shot import IntraShotTraining
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.reader import ReaderTraining
from shotstream.training.stages.teacher import TeacherTraining

StageConfig = (
    CodecTraining
    | DecoderTraining
    | ReaderTraining
    | TeacherTraining
    | OdePairsTraining
    | CausalInitTraining
    | IntraShotTraining
    | InterShotTraining
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One run."""

    name: str
    stage: StageConfig
    loop: LoopConfig
    inputs: tuple[str, ...] = ()
    """Names of the recipes whose runs this one starts from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", _lasting(self.stage, self.loop.num_steps))


def length_of(stage: StageConfig) -> str | None:
    """The dotted name of a stage's own length; None: it has none, for nothing in it depends on one."""
    if isinstance(stage, OdePairsTraining):
        return None
    return "dmd.num_steps" if isinstance(stage, IntraShotTraining | InterShotTraining) else "num_steps"


def _lasting(stage: StageConfig, num_steps: int) -> StageConfig:
    if isinstance(stage, OdePairsTraining):
        return stage
    if isinstance(stage, IntraShotTraining | InterShotTraining):
        return replace(stage, dmd=replace(stage.dmd, num_steps=num_steps))
    return replace(stage, num_steps=num_steps)
