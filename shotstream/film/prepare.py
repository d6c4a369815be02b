"""From a story to a plan: lengths and seeds fixed, and what the model will not take told in advance."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

from shotstream.codec.text import TextEncoder
from shotstream.film.replay import FilmPlan
from shotstream.story import CaptionStyle, Story, compose_caption, fit_caption
from shotstream.streaming.noise import derive_seed

MAX_NAMED_WORDS = 5
_NUM_CUT_WORDS_SHOWN = 6


def plan_film(
    story: Story,
    *,
    model_id: str,
    weights_sha256: str,
    context_policy: str,
    seed: int,
    num_steps: int,
    num_chunks: int,
) -> FilmPlan:
    """The plan of a story.

    Args:
        story: what to film.
        model_id: the model's name.
        weights_sha256: of the model's weights.
        context_policy: how context frames are chosen.
        seed: shots without a seed get one derived from it and their index.
        num_steps: denoising steps per chunk.
        num_chunks: length of the shots that have none.
    """
    shots = tuple(
        replace(
            shot,
            num_chunks=num_chunks if shot.num_chunks is None else shot.num_chunks,
            seed=derive_seed(seed, "shot", index) if shot.seed is None else shot.seed,
        )
        for index, shot in enumerate(story.shots)
    )
    return FilmPlan(
        model_id=model_id,
        weights_sha256=weights_sha256,
        context_policy=context_policy,
        num_steps=num_steps,
        seed=seed,
        story=replace(story, shots=shots, seed=None),
    )


def caption_warnings(
    story: Story, encoder: TextEncoder, style: CaptionStyle = "plain", vocabulary: Sequence[str] = ()
) -> list[str]:
    """What the encoder will not take of a story, each kind told once; empty when it takes everything.

    Args:
        story: what is to be filmed.
        encoder: the model's.
        style: how captions are composed.
        vocabulary: words to suggest in place of unknown ones.
    """
    unknown: dict[str, None] = {}
    cut: list[str] = []
    for index, shot in enumerate(story.shots):
        unknown.update(
            dict.fromkeys(encoder.unknown_words(compose_caption(story.global_caption, shot.caption, index)))
        )
        fitted = fit_caption(
            story.global_caption,
            shot.caption,
            encoder.text_length,
            encoder.count_tokens,
            shot_index=index,
            style=style,
        )
        if fitted.cut:
            cut.append(
                f"shot {index + 1}: {_shorten(fitted.cut)!r} is cut from the end of the global caption"
            )
        if encoder.count_tokens(fitted.text) > encoder.text_length:
            cut.append(f"shot {index + 1}: the end of its own caption is cut")
    warnings: list[str] = []
    if unknown:
        named = [_with_suggestion(word, vocabulary) for word in list(unknown)[:MAX_NAMED_WORDS]]
        more = f" and {len(unknown) - MAX_NAMED_WORDS} more" if len(unknown) > MAX_NAMED_WORDS else ""
        warnings.append(f"words that the model does not know: {', '.join(named)}{more}")
    if cut:
        more = f" (and {len(cut) - 1} more such cuts)" if len(cut) > 1 else ""
        warnings.append(
            f"captions longer than the {encoder.text_length} tokens the model takes: {cut[0]}{more}"
        )
    return warnings


def _with_suggestion(word: str, vocabulary: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, vocabulary, n=1, cutoff=0.6)
    return f"{word} ({close[0]}?)" if close else word


def _shorten(text: str) -> str:
    words = text.split()
    if len(words) <= 2 * _NUM_CUT_WORDS_SHOWN:
        return text
    return " ".join([*words[:_NUM_CUT_WORDS_SHOWN], "…", *words[-_NUM_CUT_WORDS_SHOWN:]])
