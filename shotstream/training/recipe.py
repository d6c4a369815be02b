"""What a training run is made from."""

from dataclasses import dataclass

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
