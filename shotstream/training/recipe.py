"""The configuration of a training run: siblings that each say one thing, and nothing twice.

`Recipe` has what is trained (`model`), what it learns from (`data`), how parameters are updated (`optim`),
how long and how the run goes (`train`), the numbers of its training stage (`stage`) and the runs that it
starts from (`inputs`). Read on in `theatre.py` and `wan.py`, whose functions each return one, in
`recipes.py`, where a command finds them by name, and in `saved_recipes.py`, which reads that of a run.
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
from shotstream.text.word_encoder import WordEncoderConfig
from shotstream.training.precision import MatmulDtype
from shotstream.training.rates import rate_factor
from shotstream.training.text_conditioned_dit import TextConditionedDiT

WHOLE_RUN = 2**31 - 1
"""As `OptimConfig.decay_steps`: over all of the run, however long it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A text-conditioned diffusion transformer and the schedule and context that it is trained for."""

    dit: DiTConfig
    """Sizes of the transformer."""
    text: WordEncoderConfig | StoredTextConfig
    """The text encoder: sizes and words; of shards, the captions that they hold. One without questions is
    learnt along with the transformer."""
    shift: float = 3.0
    """Shift of the noise schedule."""
    context_policy: str = "theatre"
    """How context frames are chosen from earlier shots, see `context_sampling`."""
    start: str = ""
    """A model whose transformer a teacher begins at: a name or a bundle's directory; empty: random."""

    def __post_init__(self) -> None:
        require_positive(self, ("shift",))
        named_policy(self.context_policy)

    def build(self) -> TextConditionedDiT:
        """Returns the model with random weights."""
        return TextConditionedDiT(DiT(self.dit), self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimizer, its learning rate over the run, and the moving average of the weights (EMA)."""

    learning_rate: float
    """AdamW's peak learning rate; Muon's is three times it."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """"muon": Muon for hidden matrices, AdamW for everything else. "adamw": AdamW without momentum for
    everything, as the published code has it."""
    max_norm: float = 1.0
    """Gradients are clipped to this norm."""
    warmup_steps: int = 1
    """Steps over which the learning rate rises from zero; 1: it begins at its peak."""
    decay_steps: int = 1
    """Steps at the end of the run over which the learning rate falls to zero; 1: it stays. At most all of the
    run, which `WHOLE_RUN` always means."""
    ema_decay: float = 0.999
    """Decay per step of the averaged weights, which are what is used afterwards."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        require_positive(self, ("learning_rate", "max_norm"))
        require_within(self, 1, inf, ("warmup_steps", "decay_steps"))
        require_decay(self, ("ema_decay",))

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate at a step of a run of `num_steps`, as a share of the peak; see `rates.py`."""
        return rate_factor(
            step, num_steps=num_steps, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The length of a run, its seed, what it leaves behind, and how its steps are computed."""

    num_steps: int
    """Steps of the run; learning rates are planned for it."""
    seed: int = 0
    """Seed of the initial weights and of everything that a step draws."""
    matmul_dtype: MatmulDtype = "float32"
    """What linear layers compute in; "auto" is bfloat16 where the device multiplies it faster."""
    stop_at: int = 0
    """Steps after which the run stops before its end, as if told to, to be gone on with; 0: it does not."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between entries of the log."""
    preview_every: int = 2000
    """Steps between previews, which the stage draws."""
    keep: int = 2
    """Checkpoints kept."""
    accumulation: int = 1
    """Parts that a process computes its share of a batch in: more of them need less memory."""
    samples_at_once: int = 0
    """Samples of such a part, in the place of `accumulation`: then there are as many parts as that takes, on
    any number of processes. 0: as `accumulation` says."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: slower, in less memory."""
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
        """Steps that are done when nobody stops the run."""
        return min(self.num_steps, self.stop_at or self.num_steps)


LEARNT_FROM_TRAIN = ("seed", "matmul_dtype")
"""Settings of `TrainConfig` that change what is learnt; the others may change when a run is resumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Names of the recipes whose runs a run starts from; empty: it needs none of the kind."""

    codec: str = ""
    """The codec that encodes what is drawn and decodes what is previewed."""
    text_encoder: str = ""
    """The text encoder that a teacher takes over."""
    teacher: str = ""
    """The bidirectional teacher."""
    pairs: str = ""
    """The teacher's trajectories."""
    student: str = ""
    """The student that is trained on."""

    def names(self) -> tuple[str, ...]:
        """The names that are given, in the order in which they are run."""
        return tuple(name for field in fields(self) if (name := getattr(self, field.name)))


@runtime_checkable
class StageConfig(Protocol):
    """The numbers of a training stage, a frozen dataclass."""

    def check(self, recipe: "Recipe[Any, Any, Any]") -> None:
        """ValueError where they do not fit the rest of a recipe, or parts of it could not take effect."""
        ...


# A recipe is never changed: where one of a stage is taken, one of a more special stage is too.
ModelT = TypeVar("ModelT", covariant=True)
DataT = TypeVar("DataT", covariant=True)
StageT = TypeVar("StageT", bound=StageConfig, covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Generic[ModelT, DataT, StageT]):
    """The whole configuration of one training run."""

    name: str
    """Of the recipe and of its run's directory."""
    model: ModelT
    """What is trained."""
    data: DataT
    """What it learns from."""
    optim: OptimConfig | None
    """How its parameters are updated; None: nothing is learnt."""
    train: TrainConfig
    """How long the run is and how its steps are computed."""
    stage: StageT
    """The stage's own numbers."""
    inputs: Inputs = Inputs()
    """The runs that it starts from."""

    def __post_init__(self) -> None:
        directory = getattr(self.data, "directory", None)
        if directory is not None and isinstance(self.model, ModelConfig):
            # Captions of shards are read where the shards are.
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
        """`optim` of a recipe that learns."""
        assert self.optim is not None, f"{self.name} learns nothing"
        return self.optim

    def refuse_matmul_dtype(self, reason: str) -> None:
        """ValueError when another precision than float32 is asked for, which could not take effect."""
        if self.train.matmul_dtype != "float32":
            raise ValueError(f"train.matmul_dtype={self.train.matmul_dtype} cannot take effect: {reason}")


AnyRecipe = Recipe[Any, Any, Any]
