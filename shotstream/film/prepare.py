"""The plan of a film: sets lengths and seeds of a story, and warns of captions that the model cannot take."""

import platform
from collections.abc import Sequence
from dataclasses import replace

import torch

import shotstream
from shotstream.film.replay import Environment, FilmPlan, Replay, ReplayError
from shotstream.story import Reference, Shot, ShotCaptions, Story, compose_caption
from shotstream.streaming.context_sampling import max_pictures
from shotstream.streaming.noise import shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import fitted_family_caption
from shotstream.streaming.references import cite, fitted_picture, is_for, with_picture
from shotstream.text.text_encoder import TextEncoder
from shotstream.theatre.caption_encoder import CaptionEncoder
from shotstream.theatre.reading.settled import NOT_HERE, SettledShot

MAX_NAMED_WORDS = 5
_NUM_CUT_WORDS_SHOWN = 6


def plan_film(
    story: Story,
    pipeline: StreamingPipeline,
    *,
    seed: int,
    num_steps: int | None = None,
    policy: str | None = None,
) -> FilmPlan:
    """Returns the plan of a story.

    Args:
        story: The story; its own seed is ignored.
        pipeline: The pipeline that will generate the film; a shot without a length gets its default length.
        seed: Seed of the film; a shot without a seed gets one derived from it and the shot's index.
        num_steps: Denoising steps per chunk; None: the number that the model was trained for.
        policy: Name of the policy that chooses the context of each shot; None: the model's.

    Raises:
        ValueError: A picture cannot be used, a shot has more references than places, a caption cites what is
            no reference, a shot is steered after its end, or the policy is unknown or cannot be used with the
            model.
    """
    if policy is not None:
        pipeline.check_policy(policy)
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
        context_policy=policy or pipeline.context_policy,
        num_steps=pipeline.num_steps if num_steps is None else num_steps,
        seed=seed,
        story=replace(story, shots=shots, seed=None, references=_fitted(story, pipeline)),
    )


def _fitted(story: Story, pipeline: StreamingPipeline) -> tuple[Reference, ...]:
    """Returns the references with their pictures at the model's size, without files."""
    most = max_pictures(pipeline.context_budget) if story.references else 0
    for index, shot in enumerate(story.shots):
        told = " ".join(told_captions(story, shot))
        here = [f"@{one.id}" for one in story.references if is_for(one, index, told)]
        if len(here) > most:
            raise ValueError(
                f"shot {index + 1}: {len(here)} references ({', '.join(here)}) for {most} places in its "
                "context; name under a reference's 'shots' which it is for, or leave some out"
            )
        for number, caption in enumerate(told_captions(story, shot)):
            try:
                cite(caption, story.references)
            except ValueError as error:
                where = "global_caption" if number == 0 else f"shot {index + 1}"
                raise ValueError(f"{where}: {error}") from error
    return tuple(with_picture(one, fitted_picture(one, pipeline.pixel_size)) for one in story.references)


def told_captions(story: Story, shot: Shot) -> list[str]:
    """Returns the captions that tell a shot: the global one, its own, and those that it is steered to."""
    return [story.global_caption, shot.caption, *(steer.caption for steer in shot.then)]


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
    """Raises ReplayError if the pipeline is not the model that generated the replayed film.

    The film's context policy may be another than the model's: it is generated again under its own.
    """
    plan = replay.plan
    if plan.weights_sha256 != pipeline.weights_sha256:
        raise ReplayError(
            f"the film was made with {plan.model_id} and weights {plan.weights_sha256[:12]}; this is "
            f"{pipeline.model_id} with {pipeline.weights_sha256[:12]}: name the right model with --model"
        )
    try:
        pipeline.check_policy(plan.context_policy)
    except ValueError as error:
        raise ReplayError(f"the film cannot be made again: {error}") from error


def read_film(story: Story, pipeline: StreamingPipeline, seed: int) -> list[list[SettledShot]]:
    """Returns what the model understands of every shot, and what it will show; empty if it cannot say.

    A shot has as many of them as it has captions.

    Args:
        story: The story, with or without seeds of its shots.
        pipeline: The pipeline that will generate it.
        seed: Seed of the film.
    """
    first = story.shots[0].seed if story.shots else None
    first = shot_seed(seed, 0) if first is None else first
    told: list[ShotCaptions] = []
    readings: list[list[SettledShot]] = []
    for shot in story.shots:
        about, *own = (cite(caption, story.references) for caption in told_captions(story, shot))
        parts = [own[0] if end == 1 else tuple(own[:end]) for end in range(1, len(own) + 1)]
        found = (pipeline.read(about, [*told, part], first) for part in parts)
        readings.append([one for one in found if one is not None])
        told.append(parts[-1])
    return [shot for shot in readings if shot]


def unknown_words(encoder: TextEncoder, global_caption: str, caption: str) -> tuple[str, ...]:
    """Returns the words of a shot's captions that a model does not know."""
    if isinstance(encoder, CaptionEncoder):
        return encoder.unknown_words(f"{' '.join(global_caption.split())}\n{' '.join(caption.split())}")
    # In the plain style, because the published one joins a label to the words around it.
    return encoder.unknown_words(compose_caption(global_caption, caption, 0, style="plain"))


def caption_warnings(story: Story, pipeline: StreamingPipeline, seed: int = 0) -> list[str]:
    """Returns warnings about parts of a story that the model ignores or does not know; each kind once.

    `seed` is that of the film, which chooses what the captions of a theatre's film leave open.
    """
    warnings = [*story.warnings, *_picture_warnings(story, pipeline)]
    if isinstance(pipeline.text_encoder, CaptionEncoder):
        return [*warnings, *reading_warnings(read_film(story, pipeline, seed))]
    return [*warnings, *_token_warnings(story, pipeline)]


def _picture_warnings(story: Story, pipeline: StreamingPipeline) -> list[str]:
    return [told for one in story.references if (told := pipeline.judge_reference(one)) is not None]


def reading_warnings(shots: Sequence[Sequence[SettledShot]]) -> list[str]:
    """Returns all that a film will not show as its captions say, with the shots: words, then choices."""
    unknown: dict[str, list[int]] = {}
    notes: dict[str, list[int]] = {}
    for number, parts in enumerate(shots, 1):
        for part in parts:
            for word in part.said.unknown:
                _add_once(unknown.setdefault(str(word), []), number)
            for note in part.notes:
                _add_once(notes.setdefault(note, []), number)
    warnings = [f"{_in_shots(numbers, len(shots))}{note}" for note, numbers in notes.items()]
    if unknown:
        words = [f"{word}{_of_shots(numbers, len(shots))}" for word, numbers in unknown.items()]
        warnings.insert(0, f"{NOT_HERE}: {', '.join(words)}")
    return warnings


def _add_once(numbers: list[int], number: int) -> None:
    if number not in numbers:
        numbers.append(number)


def _in_shots(numbers: Sequence[int], total: int) -> str:
    return f"{_shots(numbers)}: " if len(numbers) < total else ""


def _of_shots(numbers: Sequence[int], total: int) -> str:
    return f" ({_shots(numbers)})" if len(numbers) < total else ""


def _shots(numbers: Sequence[int]) -> str:
    return f"shot {numbers[0]}" if len(numbers) == 1 else f"shots {', '.join(map(str, numbers))}"


def _token_warnings(story: Story, pipeline: StreamingPipeline) -> list[str]:
    """Returns warnings about words that are not in a vocabulary, and about captions that are cut."""
    encoder = pipeline.text_encoder
    unknown: dict[str, None] = {}
    cut: list[str] = []
    for index, shot in enumerate(story.shots):
        about, *own = (cite(caption, story.references) for caption in told_captions(story, shot))
        for caption in own:
            unknown.update(dict.fromkeys(unknown_words(encoder, about, caption)))
            told = [*(["-"] * index), caption]  # the text of a shot depends on the number of those before
            fitted = fitted_family_caption(pipeline.family, encoder, about, told)
            if fitted.cut:
                cut.append(
                    f"shot {index + 1}: {_shorten(fitted.cut)!r} is cut from the end of the global caption"
                )
            if encoder.count_tokens(fitted.text) > encoder.text_length:
                cut.append(f"shot {index + 1}: the end of its own caption is cut")
    warnings: list[str] = []
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
