"""The configuration of a training run, in independent sections.

`Recipe` has the model (`model`), the training data (`data`), the optimizer (`optim`), the length and
execution of the run (`train`), the settings of its stage (`stage`) and the runs that it starts from
(`inputs`). `theatre.py` and `wan.py` have functions that return recipes, `recipes.py` finds them by name, and
`saved_recipes.py` reads that of a run.
"""

from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from shotstream.configs import refuse_unknown_words
from shotstream.data.captions import StoredTextConfig
from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.data.story_captions import StoryCaptionsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.streaming.context_sampling import named_policy
from shotstream.theatre.caption_encoder import CaptionEncoderConfig
from shotstream.training.precision import MatmulDtype
from shotstream.training.text_conditioned_dit import TextConditionedDiT

WHOLE_RUN = 2**31 - 1
"""Value of `OptimConfig.decay_steps` for a decay over the whole run, whatever its length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Configuration of a text-conditioned diffusion transformer: sizes, schedule and context policy."""

    dit: DiTConfig
    """Sizes of the transformer."""
    text: CaptionEncoderConfig | StoredTextConfig
    """The text encoder: its sizes and words, or the directory of stored captions. A text encoder without
    questions is trained together with the transformer.
    """
    shift: float = 3.0
    """Shift of the noise schedule, above 0."""
    context_policy: str = "theatre"
    """Name of the policy that chooses context frames of earlier shots, see `context_sampling`."""
    start: str = ""
    """Name or bundle directory of the model whose transformer a teacher starts from; empty: random
    weights.
    """

    def __post_init__(self) -> None:
        require_positive(self, ("shift",))
        if (compared := named_policy(self.context_policy).compares) is not None:
            raise ValueError(
                f"the context policy {self.context_policy!r} compares {compared} of a film, which training "
                "does not; train with another, and film with this one"
            )

    def build(self) -> TextConditionedDiT:
        """Returns the model with random weights."""
        return TextConditionedDiT(DiT(self.dit), self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer, its learning rate over the run, and the moving average of the weights (EMA)."""

    learning_rate: float
    """AdamW's peak learning rate, above 0; Muon's is three times it."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Name of the optimizer. "muon": Muon for hidden matrices, AdamW for the rest. "adamw": AdamW without
    momentum for all, as in the published code.
    """
    max_norm: float = 1.0
    """Maximum norm of the gradients, above 0; larger ones are clipped to it."""
    warmup_steps: int = 1
    """Number of steps, at least 1, over which the learning rate rises from zero; 1: it starts at its peak."""
    decay_steps: int = 1
    """Number of steps at the end of the run over which the learning rate falls to zero; 1: no decay. At least
    1, and at most the whole run, which `WHOLE_RUN` always means.
    """
    ema_decay: float = 0.999
    """Decay per step of the averaged weights (EMA), which are used after training; in [0, 1)."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        require_positive(self, ("learning_rate", "max_norm"))
        require_within(self, 1, inf, ("warmup_steps", "decay_steps"))
        require_decay(self, ("ema_decay",))

    def rate(self, step: int, num_steps: int) -> float:
        """Returns the learning rate at a step of a run, from 0, as a share of the peak; 0 past the end.

        In a short run warm-up and decay are shortened, to at most half and all of it: no step of any run has
        a rate below zero or above the peak. The last step of the warm-up is at the peak; the decay reaches
        zero at the step after the last.
        """
        warmup, decay = min(self.warmup_steps, max(1, num_steps // 2)), min(self.decay_steps, num_steps)
        risen, left = (step + 1) / warmup, (num_steps - step) / decay
        return min(1.0, risen) * min(1.0, max(0.0, left))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Configuration of the run: its length, its seed, its output, and how its steps are computed."""

    num_steps: int
    """Number of steps of the run, at least 1; learning rates are planned for it."""
    seed: int = 0
    """Seed of the initial weights and of all randomness of a step, at least 0."""
    matmul_dtype: MatmulDtype = "float32"
    """Dtype of matrix products in linear layers; "auto" is bfloat16 if the device multiplies it faster."""
    stop_at: int = 0
    """Number of steps after which the run stops early, as after SIGTERM, and can be resumed; 0: never."""
    save_every: int = 500
    """Number of steps between checkpoints, at least 1."""
    log_every: int = 50
    """Number of steps between entries of the log, at least 1."""
    preview_every: int = 2000
    """Number of steps between previews by the stage, at least 1."""
    keep: int = 2
    """Number of newest checkpoints that are kept, at least 1."""
    accumulation: int = 1
    """Number of microbatches of a process's share of a batch, at least 1; more need less memory."""
    samples_at_once: int = 0
    """Number of samples of a microbatch, instead of `accumulation`, on any number of processes. 0: given by
    `accumulation`.
    """
    activation_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: slower, with less memory."""
    compile: bool = False
    """Whether transformer blocks are compiled."""
    tensorboard: bool = True
    """Whether scalars are also written for TensorBoard, if that is installed."""

    def __post_init__(self) -> None:
        counts = ("num_steps", "save_every", "log_every", "preview_every", "keep", "accumulation")
        require_within(self, 1, inf, counts)
        require_within(self, 0, inf, ("seed", "stop_at", "samples_at_once"))
        refuse_unknown_words(self)
        if self.samples_at_once and self.accumulation > 1:
            raise ValueError(
                f"samples_at_once is {self.samples_at_once} and accumulation {self.accumulation}: give one"
            )

    @property
    def last_step(self) -> int:
        """Number of steps that are done if nothing interrupts the run."""
        return min(self.num_steps, self.stop_at or self.num_steps)


LEARNT_FROM_TRAIN = ("seed", "matmul_dtype")
"""Settings of `TrainConfig` that change the result; the others may change when a run is resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Names of the recipes whose runs a run starts from; empty: it needs none of this kind."""

    codec: str = ""
    """Recipe of the codec that encodes generated stories and decodes previews."""
    teacher: str = ""
    """Recipe of the bidirectional teacher."""
    pairs: str = ""
    """Recipe of the teacher's ODE pairs."""
    student: str = ""
    """Recipe of the student from which training continues."""

    def names(self) -> tuple[str, ...]:
        """Returns the names that are given, in the order in which they are run."""
        return tuple(name for field in fields(self) if (name := getattr(self, field.name)))


@runtime_checkable
class StageConfig(Protocol):
    """The protocol of a stage's configuration, a frozen dataclass."""

    def check(self, recipe: "Recipe[Any, Any, Any]") -> None:
        """Raises ValueError if it does not fit the rest of a recipe, or some of it would have no effect."""
        ...


# Covariant, because a recipe is immutable: one of a more specific stage is accepted.
ModelT = TypeVar("ModelT", covariant=True)
DataT = TypeVar("DataT", covariant=True)
StageT = TypeVar("StageT", bound=StageConfig, covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Generic[ModelT, DataT, StageT]):
    """The complete configuration of one training run."""

    name: str
    """Name of the recipe and of its run's directory."""
    model: ModelT
    """Configuration of the model to train."""
    data: DataT
    """Configuration of the training data."""
    optim: OptimConfig | None
    """Configuration of the optimizer; None: the stage trains nothing."""
    train: TrainConfig
    """Configuration of the run: its length, and how its steps are computed."""
    stage: StageT
    """Configuration of the stage alone."""
    inputs: Inputs = Inputs()
    """Names of the runs that it starts from."""

    def __post_init__(self) -> None:
        directory = getattr(self.data, "directory", None)
        if directory is not None and isinstance(self.model, ModelConfig):
            # Captions of shards are in the same directory as the shards.
            text = StoredTextConfig(directory=directory)
            object.__setattr__(self, "model", replace(self.model, text=text))
        elif (
            isinstance(self.data, StoryPoolConfig | StoryCaptionsConfig)
            and isinstance(self.model, ModelConfig)
            and isinstance(self.model.text, StoredTextConfig)
        ):
            raise ValueError(
                "model.text is that of shards, and the stories are rendered: give its sizes and words"
            )
        self.stage.check(self)

    @property
    def optimizer(self) -> OptimConfig:
        """`optim` of a recipe that trains something."""
        assert self.optim is not None, f"{self.name} learns nothing"
        return self.optim

    def refuse_matmul_dtype(self, reason: str) -> None:
        """Raises ValueError if another precision than float32 is set, which would have no effect."""
        if self.train.matmul_dtype != "float32":
            raise ValueError(f"train.matmul_dtype={self.train.matmul_dtype} cannot take effect: {reason}")


AnyRecipe = Recipe[Any, Any, Any]
