from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.film.prepare import caption_warnings, plan_film
from shotstream.story import Shot, Story


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


def story(global_caption: str, *captions: str) -> Story:
    return Story(global_caption=global_caption, shots=tuple(Shot(caption=caption) for caption in captions))


def planned(written: Story, seed: int = 7) -> list[tuple[int | None, int | None]]:
    plan = plan_film(
        written, model_id="m", weights_sha256="0", context_policy="ours", seed=seed, num_steps=4, num_chunks=3
    )
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
    assert caption_warnings(story("a fox", "it sits"), WordEncoder(4, "a fox it sits")) == []


def test_the_first_five_unknown_words_are_named_once_with_suggestions() -> None:
    written = story("a foxx", "u v w x y", "u v z")
    (warning,) = caption_warnings(written, WordEncoder(99, "a fox"), vocabulary=("fox", "owl"))
    assert warning == "words that the model does not know: foxx (fox?), u, v, w, x and 2 more"


def test_what_is_cut_from_long_captions_is_told_once() -> None:
    written = story("one two three", "a b", "a b c d e f")
    (warning,) = caption_warnings(written, WordEncoder(4, "one two three a b c d e f"))
    assert warning == (
        "captions longer than the 4 tokens the model takes: "
        "shot 1: 'three' is cut from the end of the global caption (and 2 more such cuts)"
    )
