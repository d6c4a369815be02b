"""The command `generate`: generates a film from a story, with live progress."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotstream.cli.inference_options import inference_group_of, load_warm, takes_options
from shotstream.cli.shared import (
    BadInput,
    DeviceOption,
    Fault,
    ModelOption,
    ScaleOption,
    bad_input,
    comfortable_scale,
    interruptible,
    make_console,
    one_line,
    print_reading,
    refuse_unknown,
)

if TYPE_CHECKING:
    from rich.console import Console

    from shotstream.film import Environment, Film, FilmPlan, FilmSettings, Replay
    from shotstream.streaming.choice import Options
    from shotstream.streaming.pipeline import StreamingPipeline

DEFAULT_SEED = 7


@takes_options
def generate(
    story: Annotated[
        str, typer.Argument(help="Story file (YAML, JSON), a replay file, or a bundled story's name.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The film; its name ends in .mp4.")] = Path(
        "film.mp4"
    ),
    model: ModelOption = "theatre",
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help=f"Seed; default: the story's, or {DEFAULT_SEED}."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Denoising steps per chunk; default: the model's.")
    ] = None,
    context_policy: Annotated[
        str | None,
        typer.Option(
            help="What chooses the frames of earlier shots that a shot remembers: theatre, prompt, keys or "
            "published; of a model without such memory, none or last_frame; default: the model's choice."
        ),
    ] = None,
    scale: ScaleOption = None,
    device: DeviceOption = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing film, and unfinished work.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse captions with things that the model's world does not have."),
    ] = False,
    *,
    options: "Options",
) -> None:
    """Make a film of a story.

    From a replay file, reproduce the film and check every frame. The same command resumes an interrupted
    film. Several processes can make a film together:
    torchrun --nproc-per-node N -m shotstream.cli generate ...
    """
    console = make_console()
    with inference_group_of(device) as group:
        if group is None or group.is_leader:
            _generate(
                console,
                story,
                output,
                lambda: load_warm(console, model, device, options, group),
                seed,
                steps,
                context_policy,
                scale,
                overwrite,
                strict,
            )
            return
        from shotstream.streaming.loading import follow

        follow(model, group, options)


def _generate(
    console: "Console",
    story: str,
    output: Path,
    load: Callable[[], "StreamingPipeline"],
    seed: int | None,
    steps: int | None,
    context_policy: str | None,
    scale: int | None,
    overwrite: bool,
    strict: bool,
) -> None:
    from shotstream.film import FilmFiles, FilmSettings, check_target, is_replay, read_replay

    with bad_input():
        from shotstream.story import find_story, read_story
        from shotstream.streaming.context_sampling import POLICIES_WITHOUT_CONTEXT, named_policy

        path = find_story(story)
        replay = read_replay(path) if is_replay(path) else None
        if replay and (seed, steps, context_policy) != (None, None, None):
            raise ValueError(
                "a replay names its own seed, steps and context policy; leave --seed, --steps and "
                "--context-policy out"
            )
        if context_policy is not None and context_policy not in POLICIES_WITHOUT_CONTEXT:
            named_policy(context_policy)
        written = replay.plan.story if replay else read_story(path)
        settings = FilmSettings(files=FilmFiles(film=output), overwrite=overwrite)
        if replay and settings.files.replay.resolve() == path.resolve():
            raise ValueError(f"{path} would be overwritten by the film that it checks; give another -o")
        check_target(settings)
    with bad_input(), interruptible(lambda: _kept(settings)), console.status("loading"):
        from shotstream.film import caption_warnings, check_replay, plan_film, read_film, running_environment
        from shotstream.film.live import warn

        pipeline = load()
        environment = running_environment(pipeline)
        if replay:
            check_replay(replay, pipeline)
            plan = replay.plan
        else:
            chosen = seed if seed is not None else written.seed
            plan = plan_film(
                written,
                pipeline,
                seed=DEFAULT_SEED if chosen is None else chosen,
                num_steps=steps,
                policy=context_policy,
            )
        for shot in plan.story.shots:
            assert shot.num_chunks is not None
            # Before the first shot is generated, because a later one may be too long for the model.
            pipeline.check_shot(shot.num_chunks, plan.num_steps)
        warnings = caption_warnings(written, pipeline, plan.seed)
        readings = read_film(plan.story, pipeline, plan.seed)
        if strict:
            refuse_unknown([word for shot in readings for part in shot for word in part.said.unknown])
    if replay and (differences := replay.environment.differences(environment)):
        warnings.append(f"frames may differ from the replay's: then and now {'; '.join(differences)}")
    for number, parts in enumerate(readings, 1):
        for index, part in enumerate(parts):
            print_reading(console, part, f"shot {number}, then: " if index else f"shot {number}: ")
    for warning in warnings:
        warn(console, warning)
    if scale is None:
        scale = comfortable_scale(pipeline)
    film = _film_live(console, pipeline, plan, environment, replace(settings, scale=scale))
    _report(console, film, pipeline.fps)
    if replay:
        _check_frames(console, film, replay)


def _film_live(
    console: "Console",
    pipeline: "StreamingPipeline",
    plan: "FilmPlan",
    environment: "Environment",
    settings: "FilmSettings",
) -> "Film":
    from shotstream.film import FilmExistsError, WorkDirError, make_film
    from shotstream.film.live import LiveView
    from shotstream.streaming.saved_session import SessionError

    try:
        with interruptible(lambda: _kept(settings)), LiveView(console, plan) as view:
            return make_film(pipeline, plan, environment, settings, view)
    except (FilmExistsError, WorkDirError, SessionError) as error:
        raise BadInput(one_line(error)) from error
    except OSError as error:
        said = f"{settings.files.film}: {error.strerror or one_line(error)}"
        raise Fault(f"{said}; {_kept(settings)}") from error


def _kept(settings: "FilmSettings") -> str:
    """Returns a message about an unfinished film: what is on disk, and how to resume it."""
    from shotstream.film import num_finished_shots

    partial = settings.files.partial
    num_shots = num_finished_shots(partial)
    if not num_shots:
        return "no shot was finished, and nothing is kept: the same command starts again"
    shots = "1 finished shot is" if num_shots == 1 else f"{num_shots} finished shots are"
    return f"{shots} kept in {partial}: the same command resumes"


def _report(console: "Console", film: "Film", fps: int) -> None:
    from rich.text import Text

    from shotstream.documents import printable

    files = film.files
    num_frames = sum(map(len, film.replay.frame_sha256))
    size_mb = files.film.stat().st_size / 1e6
    resumed = f", {film.num_resumed_shots} of them from before" if film.num_resumed_shots else ""
    made = f"{len(film.replay.frame_sha256)} shots{resumed}, {num_frames / fps:.1f} s, {size_mb:.1f} MB"
    console.print(
        Text.assemble((printable(str(files.film)), "bold"), f": {made}"),
        highlight=False,
        soft_wrap=True,
    )
    if film.first_frame_s is not None:
        console.print(
            f"generated {film.num_new_frames} frames at {film.num_new_frames / film.generate_s:.0f} fps, "
            f"the first after {film.first_frame_s:.2f} s",
            highlight=False,
        )
    for path in (files.storyboard, files.subtitles, files.replay):
        console.print(f"  {printable(str(path))}", highlight=False, soft_wrap=True)


def _check_frames(console: "Console", film: "Film", replay: "Replay") -> None:
    from shotstream.film import count_differences

    num_different, first = count_differences(film, replay)
    if num_different:
        raise Fault(f"{num_different} frames differ from the replay's, the first one: {first}")
    console.print("every frame equals the replay's")
