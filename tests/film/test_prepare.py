import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import shotstream
from shotstream.film import Environment, Replay, ReplayError
from shotstream.film.prepare import caption_warnings, check_replay, plan_film, running_environment
from shotstream.geometry import PixelSize
from shotstream.story import Shot, Story
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import Family, PipelineConfig


class WordEncoder:
    """Knows a few words; one token per word."""

    def __init__(self, text_length: int, known: str) -> None:
        self.text_length, self._known = text_length, set(known.split())

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        return torch.zeros(len(captions), self.text_length, 2)

    def count_tokens(self, caption: str) -> int:
        return len(caption.split())

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        return tuple(word for word in caption.split() if word not in self._known)

    def suggestions(self, word: str) -> tuple[str, ...]:
        return ("fox",) if word.startswith("fo") else ()


CONFIG = PipelineConfig(
    family="theatre",
    model_id="m",
    fps=12,
    pixel_size=PixelSize(48, 80),
    num_chunks=3,
    context_policy="theatre",
)


@dataclass(frozen=True, kw_only=True)
class ModelOnPaper(StreamingPipeline):
    text_encoder: WordEncoder
    model_id: str = "m"
    weights_sha256: str = "0" * 64
    context_policy: str = "theatre"
    group: None = None
    config: PipelineConfig = CONFIG
    num_chunks: int = 3
    num_steps: int = 4
    dtype: torch.dtype = torch.float32
    family: Family = "theatre"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def model(text_length: int = 99, known: str = "") -> ModelOnPaper:
    return ModelOnPaper(text_encoder=WordEncoder(text_length, known))


def story(global_caption: str, *captions: str) -> Story:
    return Story(global_caption=global_caption, shots=tuple(Shot(caption=caption) for caption in captions))


def planned(written: Story, seed: int = 7) -> list[tuple[int | None, int | None]]:
    plan = plan_film(written, model(), seed=seed)
    return [(shot.num_chunks, shot.seed) for shot in plan.story.shots]


def test_a_plan_fixes_lengths_and_seeds_and_keeps_those_that_are_given() -> None:
    written = Story(
        global_caption="g",
        shots=(Shot(caption="a"), Shot(caption="b", num_chunks=1, seed=5), Shot(caption="c")),
    )
    (first, second, third) = planned(written)
    assert (first[0], second, third[0]) == (3, (1, 5), 3)
    assert first[1] != third[1]
    assert planned(written) == [first, second, third]
    assert planned(written, seed=8)[0] != first


def test_a_story_the_encoder_takes_whole_gives_no_warning() -> None:
    assert caption_warnings(story("a fox", "it sits"), model(4, "a fox it sits")) == []


def test_a_storys_own_seed_is_not_looked_at() -> None:
    written = story("g", "a", "b")
    assert plan_film(replace(written, seed=99), model(), seed=7) == plan_film(written, model(), seed=7)


def test_a_film_takes_the_steps_its_model_was_trained_for_unless_told() -> None:
    assert [plan_film(story("g", "a"), model(), seed=7, num_steps=n).num_steps for n in (None, 1)] == [4, 1]


def test_a_film_tells_where_it_was_made() -> None:
    assert running_environment(replace(model(), dtype=torch.bfloat16)) == Environment(
        shotstream=shotstream.__version__,
        torch=torch.__version__,
        device=f"cpu {platform.machine()}",
        dtype="bfloat16",
        num_threads=torch.get_num_threads(),
    )


def test_five_unknown_words_are_all_there_are_and_an_encoder_need_not_suggest() -> None:
    class Plain(WordEncoder):
        def suggestions(self, word: str) -> tuple[str, ...]:
            del word
            return ()

    (warning,) = caption_warnings(story("foxx u", "v w x"), ModelOnPaper(text_encoder=Plain(99, "")))
    assert warning == "words that the model does not know: foxx, u, v, w, x"


def test_a_long_cut_is_told_by_its_ends_and_a_single_one_alone() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve"
    for whole, told in (
        (words, words),
        (f"{words} end", "one two three four five six … eight nine ten eleven twelve end"),
    ):
        (warning,) = caption_warnings(story(f"kept {whole}", "a"), model(2, f"kept a {whole}"))
        assert warning == (
            "captions longer than the 2 tokens the model takes: "
            f"shot 1: '{told}' is cut from the end of the global caption"
        )


def test_a_shots_own_caption_that_is_too_long_is_told() -> None:
    (warning,) = caption_warnings(story("g", "a", "a b c"), model(2, "g a b c"))
    assert warning.endswith("shot 2: 'g' is cut from the end of the global caption (and 1 more such cuts)")
    (warning,) = caption_warnings(story(" ".join("g"), "a b c"), model(3, "g a b c"))
    assert "the end of its own" not in warning


def test_captions_are_measured_as_the_model_is_given_them() -> None:
    """In the published form the shot's number is a part of the text, and no space is."""

    class Letters(WordEncoder):
        def count_tokens(self, caption: str) -> int:
            return len(caption)

    room = len("a fox sitsshot9:it is")
    letters = ModelOnPaper(text_encoder=Letters(room, "a fox sits it is"), family="wan")
    (warning,) = caption_warnings(story("a fox sits", *["it is"] * 12), letters)
    assert warning == (
        f"captions longer than the {room} tokens the model takes: "
        "shot 11: 'sits' is cut from the end of the global caption (and 1 more such cuts)"
    )
    assert caption_warnings(story("a fox sits", *["it is"] * 12), replace(letters, family="theatre")) == []


def test_the_first_five_unknown_words_are_named_once_with_suggestions() -> None:
    written = story("a foxx", "u v w x y", "u v z")
    (warning,) = caption_warnings(written, model(99, "a fox"))
    assert warning == "words that the model does not know: foxx (fox?), u, v, w, x and 2 more"


def test_what_is_cut_from_long_captions_is_told_once() -> None:
    written = story("one two three", "a b", "a b c d e f")
    (warning,) = caption_warnings(written, model(4, "one two three a b c d e f"))
    assert warning == (
        "captions longer than the 4 tokens the model takes: "
        "shot 1: 'three' is cut from the end of the global caption (and 2 more such cuts)"
    )


def test_a_replay_is_made_again_only_with_its_own_model() -> None:
    pipeline = model()
    plan = plan_film(story("g", "a"), pipeline, seed=7, num_steps=2)
    replay = Replay(plan=plan, environment=running_environment(pipeline), frame_sha256=(("x",),))
    check_replay(replay, pipeline)
    assert plan.num_steps == 2
    with pytest.raises(ReplayError, match="weights 000000000000; this is m with 111111111111"):
        check_replay(replay, ModelOnPaper(text_encoder=WordEncoder(9, ""), weights_sha256="1" * 64))
    # The model's own policy may be another.
    check_replay(replay, ModelOnPaper(text_encoder=WordEncoder(9, ""), context_policy="published"))
    unknown = replace(replay, plan=replace(plan, context_policy="latest"))
    with pytest.raises(ReplayError, match="cannot be made again: unknown context policy 'latest'; known: "):
        check_replay(unknown, pipeline)


def test_a_plan_has_the_named_policy_or_the_models() -> None:
    written = story("g", "a")
    assert plan_film(written, model(), seed=7).context_policy == "theatre"
    assert plan_film(written, model(), seed=7, policy="prompt").context_policy == "prompt"
    with pytest.raises(ValueError, match="unknown context policy 'latest'"):
        plan_film(written, model(), seed=7, policy="latest")
