"""The questions of `shotstream bench all`, in the order of what their answers are worth; none is asked here.

Each has seconds of its own. They are counted for the 1.3B model at 480x832 on one data-centre GPU, with room;
the first has the whole headline in it and compiles nothing, so that it stands whatever becomes of the rest.
Imports nothing that takes time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Start = Literal["plain", "chosen"]
"""What a variant's inference options are changes of: none at all, or the engine's own choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A measurement in one variant of the engine."""

    name: str
    """Of the function that answers it."""
    variant: str = ""
    """Tells it from others of the same name."""
    budget_s: int = 60
    """After it the question is stopped where that is safe, and says what it has."""
    start: Start = "chosen"
    inference_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What is set otherwise than in `start`."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the engine's choice is asked for: `precision`, `memory`; nothing: what suits it."""
    num_steps: int | None = None
    """Denoising steps per chunk; None: the model's own."""
    is_light: bool = False
    """Whether pictures come from the light decoder."""
    changes_films: bool = False
    """Whether films are others than those of all bits and steps, so that no headline may come of it."""
    needs: tuple[Literal["gpu", "wan"], ...] = ()
    """Without which it is not asked."""

    @property
    def key(self) -> tuple[str, str]:
        """No two are alike."""
        return self.name, self.variant


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The selection of measurements, and how much of each.

    Raises:
        ValueError: A number is out of range.
    """

    model: str = "theatre"
    is_random: bool = False
    size: str | None = None
    """Height x width; None: the model's."""
    device: str = "auto"
    is_tiny: bool = False
    """Whether this is a trial of the program: nothing is compiled, however a variant is called."""
    num_shots: int = 2
    """Shots of a film."""
    num_stories: int = 1
    """Films of each kind."""
    num_chunks: int | None = None
    """Chunks of a shot; None: the model's usual number."""
    num_repeats: int = 5
    """Of each part of the engine."""
    num_cuts: int = 12
    """Of each kind, and no fewer intervals between chunks."""
    last_shot: int = 100
    """Where the long film ends."""
    scale: int | None = None
    """Enlargement before H.264; None: to a comfortable size."""

    def __post_init__(self) -> None:
        numbers = (self.num_shots, self.num_stories, self.num_chunks or 1, self.num_repeats, self.num_cuts)
        if min(*numbers, self.last_shot, self.scale or 1) < 1:
            raise ValueError("shots, stories, chunks, repeats, cuts and scale must be at least 1")

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _film(variant: str, budget_s: int = 60, *, changes_films: bool = False, **more: Any) -> Question:
    return Question(name="generate", variant=variant, budget_s=budget_s, changes_films=changes_films, **more)


def _denoise(variant: str, budget_s: int, start: Start = "plain", **inference_options: Any) -> Question:
    fewer_bits = "weights" in inference_options or inference_options.get("attention") == "eight-bit"
    return Question(
        name="denoise",
        variant=variant,
        budget_s=budget_s,
        start=start,
        inference_options=inference_options,
        changes_films=fewer_bits,
        needs=("gpu",) if fewer_bits or "attention" in inference_options else (),
    )


def _decode(variant: str, budget_s: int = 30, **inference_options: Any) -> Question:
    return Question(
        name="decode",
        variant=variant,
        budget_s=budget_s,
        start="plain",
        inference_options=inference_options,
        needs=("wan",),
    )


_FLOAT8 = {"precision": "float8"}

QUESTIONS: Sequence[Question] = (
    _film("nothing compiled", 90, start="plain"),
    Question(name="machine", budget_s=20, start="plain"),
    # One engine, compiled once, as long as nothing but the order of its work changes.
    _film("the engine's choice", 240),
    Question(name="baseline", budget_s=90),
    Question(name="latency", variant="full decoder", budget_s=60),
    Question(name="h264", budget_s=60),
    Question(name="latency", variant="light decoder", budget_s=60, is_light=True, needs=("wan",)),
    _film("light decoder", is_light=True, needs=("wan",), changes_films=True),
    _film("2 steps", num_steps=2, changes_films=True),
    _film("1 step", num_steps=1, changes_films=True),
    Question(name="denoise", variant="the engine's choice", budget_s=60),
    Question(name="parts", budget_s=45),
    _film("chunks in turn", inference_options={"overlap_chunks": False}),
    Question(name="encode", budget_s=30),
    _film("float8", 240, options=_FLOAT8, changes_films=True, needs=("gpu",)),
    Question(
        name="denoise",
        variant="float8",
        budget_s=90,
        options=_FLOAT8,
        changes_films=True,
        needs=("gpu",),
    ),
    Question(name="ceilings", budget_s=20, start="plain"),
    _denoise("nothing compiled", 45),
    _denoise("cuDNN's attention", 45, attention="cudnn"),
    _denoise("eight-bit attention", 45, attention="eight-bit"),
    _decode("one by one"),
    _decode("whole chunk", chunk_decode=True),
    _decode("whole chunk and benchmarked", 60, chunk_decode=True, cudnn_benchmark=True),
    _decode("all that and compiled", 120, chunk_decode=True, cudnn_benchmark=True, compile_decoder=True),
    Question(name="shots", budget_s=120),
    Question(name="attention", budget_s=45, start="plain"),
    _denoise("compiled", 120, compile=True),
    _denoise("compiled and float8 products", 120, weights="float8-products", compile=True),
    _film("memory low", 120, options={"memory": "low"}, needs=("wan",)),
    _film("memory lowest", 120, options={"memory": "lowest"}, changes_films=True, needs=("gpu", "wan")),
)


def chosen_questions(only: str | None = None, begin: str | None = None) -> list[Question]:
    """The questions with one of the names in `only` (commas between), or all from `begin` on, or all.

    A name is that of a question, or of one variant: "decode" or "decode: whole chunk".

    Raises:
        ValueError: A name is none.
    """

    def matches(question: Question, name: str) -> bool:
        return name.strip() in (question.name, f"{question.name}: {question.variant}")

    questions = list(QUESTIONS)
    for name in (*(only.split(",") if only else ()), *((begin,) if begin else ())):
        if not any(matches(question, name) for question in questions):
            names = ", ".join(dict.fromkeys(question.name for question in questions))
            raise ValueError(f"no question {name.strip()!r}; there are {names}")
    if begin:
        first = next(place for place, question in enumerate(questions) if matches(question, begin))
        questions = questions[first:]
    if only:
        questions = [x for x in questions if any(matches(x, name) for name in only.split(","))]
    return questions
