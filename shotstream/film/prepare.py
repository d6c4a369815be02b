"""The plan of a film: sets lengths and seeds of a story, and warns of captions that the model cannot take."""

import platform
from dataclasses import replace

import torch

import shotstream
from shotstream.film.replay import Environment, FilmPlan, Replay, ReplayError
from shotstream.story import Story, compose_caption
from shotstream.streaming.noise import shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import fitted_family_caption
from shotstream.text.text_encoder import TextEncoder

MAX_NAMED_WORDS = 5
_NUM_CUT_WORDS_SHOWN = 6


def plan_film(
    story: Story, pipeline: StreamingPipeline, *, seed: int, num_steps: int | None = None
) -> FilmPlan:
    """Returns the plan of a story.

    Args:
        story: The story; its own seed is ignored.
        pipeline: The pipeline that will generate the film; a shot without a length gets its default length.
        seed: Seed of the film; a shot without a seed gets one derived from it and the shot's index.
        num_steps: Denoising steps per chunk; None: the number that the model was trained for.
    """
    shots = tuple(
        replace(
            shot,
            num_chunks=pipeline.num_chunks if shot.num_chunks is None else shot.num_chunks,
            seed=shot_seed(seed, index) if shot.seed is None else shot.seed,
        )
        for index, shot in enumerate(story.shots)
    )
    return FilmPlan(
        model_id=pipeline.model_id,
        weights_sha256=pipeline.weights_sha256,
        context_policy=pipeline.context_policy,
        num_steps=pipeline.num_steps if num_steps is None else num_steps,
        seed=seed,
        story=replace(story, shots=shots, seed=None),
    )


def running_environment(pipeline: StreamingPipeline) -> Environment:
    """Returns the environment that the pipeline runs in."""
    device = pipeline.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(
        shotstream=shotstream.__version__,
        torch=torch.__version__,
        device=f"{device.type} {name}",
        dtype=str(pipeline.dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads(),
    )


def check_replay(replay: Replay, pipeline: StreamingPipeline) -> None:
    """Raises ReplayError if the pipeline is not the model that generated the replayed film."""
    plan = replay.plan
    for name, theirs, ours in (
        ("weights", plan.weights_sha256, pipeline.weights_sha256),
        ("context policy", plan.context_policy, pipeline.context_policy),
    ):
        if theirs != ours:
            raise ReplayError(
                f"the film was made with {plan.model_id} and {name} {theirs[:12]}; this is "
                f"{pipeline.model_id} with {ours[:12]}: name the right model with --model"
            )


def unknown_words(encoder: TextEncoder, global_caption: str, caption: str) -> tuple[str, ...]:
    """Returns the words of a shot's captions that a model does not know."""
    # In the plain style, because the published one joins a label to the words around it.
    return encoder.unknown_words(compose_caption(global_caption, caption, 0, style="plain"))


def caption_warnings(story: Story, pipeline: StreamingPipeline) -> list[str]:
    """Returns warnings about parts of a story that the model ignores or does not know; each kind once."""
    encoder = pipeline.text_encoder
    unknown: dict[str, None] = {}
    cut: list[str] = []
    for index, shot in enumerate(story.shots):
        unknown.update(dict.fromkeys(unknown_words(encoder, story.global_caption, shot.caption)))
        fitted = fitted_family_caption(pipeline.family, encoder, story.global_caption, shot.caption, index)
        if fitted.cut:
            cut.append(
                f"shot {index + 1}: {_shorten(fitted.cut)!r} is cut from the end of the global caption"
            )
        if encoder.count_tokens(fitted.text) > encoder.text_length:
            cut.append(f"shot {index + 1}: the end of its own caption is cut")
    warnings = list(story.warnings)
    if unknown:
        named = [_with_suggestion(word, encoder) for word in list(unknown)[:MAX_NAMED_WORDS]]
        more = f" and {len(unknown) - MAX_NAMED_WORDS} more" if len(unknown) > MAX_NAMED_WORDS else ""
        warnings.append(f"words that the model does not know: {', '.join(named)}{more}")
    if cut:
        more = f" (and {len(cut) - 1} more such cuts)" if len(cut) > 1 else ""
        warnings.append(
            f"captions longer than the {encoder.text_length} tokens the model takes: {cut[0]}{more}"
        )
    return warnings


def _with_suggestion(word: str, encoder: TextEncoder) -> str:
    close = encoder.suggestions(word)
    return f"{word} ({close[0]}?)" if close else word


def _shorten(text: str) -> str:
    words = text.split()
    if len(words) <= 2 * _NUM_CUT_WORDS_SHOWN:
        return text
    return " ".join([*words[:_NUM_CUT_WORDS_SHOWN], "…", *words[-_NUM_CUT_WORDS_SHOWN:]])
