"""The questions of `shotstream bench all`, in the order of what their answers are worth; none is asked here.

Each has seconds of its own. They are counted for the 1.3B model at 480x832 on one data-centre GPU, with room;
the first has the whole headline in it and compiles nothing, so that it stands whatever becomes of the rest.
Imports nothing that takes time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Start = Literal["plain", "chosen"]
"""What a variant's switches are changes of: none at all, or the engine's own choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question in one variant."""

    name: str
    """Of the function that answers it."""
    variant: str = ""
    """Tells it from others of the same name."""
    budget_s: int = 60
    """After it the question is stopped where that is safe, and says what it has."""
    start: Start = "chosen"
    switches: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What is set otherwise than in `start`."""
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
    """What is measured, and how much of it.

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


def _denoise(variant: str, budget_s: int, start: Start, **switches: Any) -> Question:
    changes = "weights" in switches or switches.get("attention") in EIGHT_BIT_ATTENTION
    return Question(
        name="denoise",
        variant=variant,
        budget_s=budget_s,
        start=start,
        switches=switches,
        changes_films=changes,
        needs=("gpu",) if changes or "attention" in switches else (),
    )


def _decode(variant: str, budget_s: int = 30, **switches: Any) -> Question:
    return Question(
        name="decode", variant=variant, budget_s=budget_s, start="plain", switches=switches, needs=("wan",)
    )


EIGHT_BIT_ATTENTION = ("eight-bit",)

QUESTIONS: Sequence[Question] = (
    Question(name="generate", variant="nothing compiled", budget_s=90, start="plain"),
    Question(name="machine", budget_s=20, start="plain"),
    Question(name="generate", variant="the engine's choice", budget_s=240),
    Question(name="baseline", budget_s=90),
    Question(name="latency", variant="full decoder", budget_s=60),
    Question(name="h264", budget_s=75),
    Question(name="parts", budget_s=40),
    Question(name="generate", variant="chunks ahead", budget_s=60, switches={"overlap_chunks": True}),
    Question(name="ceilings", budget_s=20, start="plain"),
    _denoise("the engine's choice", 60, "chosen"),
    Question(
        name="generate",
        variant="float8, eight-bit attention",
        budget_s=240,
        switches={"weights": "float8-products", "attention": EIGHT_BIT_ATTENTION[0]},
        changes_films=True,
        needs=("gpu",),
    ),
    _denoise("float8, eight-bit attention", 120, "chosen", weights="float8-products", attention="eight-bit"),
    Question(name="generate", variant="2 steps", budget_s=45, num_steps=2, changes_films=True),
    Question(name="generate", variant="1 step", budget_s=45, num_steps=1, changes_films=True),
    _denoise("plain", 45, "plain"),
    _denoise("cuDNN's attention", 45, "plain", attention="cudnn"),
    _denoise("compiled", 150, "plain", compile=True),
    _denoise("float8, compiled", 150, "chosen", weights="float8-products"),
    _denoise("eight-bit attention, compiled", 150, "chosen", attention="eight-bit"),
    _decode("plain"),
    _decode("whole chunk", chunk_decode=True),
    _decode("whole chunk, benchmarked", 60, chunk_decode=True, cudnn_benchmark=True),
    _decode("whole chunk, compiled", 120, chunk_decode=True, compile_decoder=True),
    Question(name="encode", budget_s=30),
    Question(name="shots", budget_s=120),
    Question(name="attention", budget_s=45, start="plain"),
)


def chosen_questions(only: str | None = None, begin: str | None = None) -> list[Question]:
    """All questions, or those with one of the names in `only` (commas between), or all from `begin` on.

    A name is that of a question, or of one variant: "decode" or "decode: plain".

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
