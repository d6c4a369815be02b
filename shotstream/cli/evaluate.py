"""The command `evaluate`: scores films of a model or of a training run with the oracle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotstream.cli.inference_options import takes_options
from shotstream.cli.shared import (
    DeviceOption,
    ModelOption,
    bad_input,
    make_console,
)

if TYPE_CHECKING:
    from shotstream.streaming.choice import Options


@takes_options
def evaluate(
    model: ModelOption = "theatre",
    stories: Annotated[int, typer.Option(help="Number of held-out stories.")] = 50,
    shots: Annotated[int, typer.Option(help="Shots of each story.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the stories and of their noise.")] = 0,
    no_context: Annotated[
        bool, typer.Option("--no-context", help="Generate each shot without context.")
    ] = False,
    other_captions: Annotated[
        bool,
        typer.Option("--other-captions", help="Use captions of another story than the one it is scored by."),
    ] = False,
    references: Annotated[
        bool,
        typer.Option("--references", help="Give each film pictures of its cast and of its sets."),
    ] = False,
    steering: Annotated[
        bool,
        typer.Option("--steering", help="Steer each story's first shot, and score whether it follows."),
    ] = False,
    mode: Annotated[str, typer.Option(help="How shots are steered: recache, blend or keep.")] = "recache",
    returns: Annotated[
        bool,
        typer.Option(
            "--returns",
            help="Stories of five actors and places that leave and return; also print memory by absence.",
        ),
    ] = False,
    context_policy: Annotated[
        list[str] | None,
        typer.Option(help="Policy that chooses context frames; repeat it to compare several."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps per chunk; default: the model's.")
    ] = None,
    codec_only: Annotated[
        bool,
        typer.Option("--codec-only", help="Score the ground truth, encoded and decoded: an upper bound."),
    ] = False,
    run: Annotated[
        str | None, typer.Option(help="Score a training run instead of a model, for example theatre_teacher.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    sampler_steps: Annotated[int, typer.Option(help="Euler steps of a teacher's run.", min=1)] = 25,
    guidance: Annotated[
        float, typer.Option(help="Caption guidance of a teacher's run; 1: none.", min=0)
    ] = 1.5,
    context_guidance: Annotated[
        float, typer.Option(help="Context guidance of a teacher's run; 1: none.", min=0)
    ] = 1.0,
    by_shot: Annotated[
        bool, typer.Option("--by-shot", help="Also print the scores by position of the shot.")
    ] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Directory for the contact sheet and the report.")
    ] = Path("evaluation"),
    device: DeviceOption = "auto",
    *,
    options: "Options",
) -> None:
    """Generate held-out stories and score them; one line of JSON at the end."""
    console = make_console()
    with bad_input(), console.status("loading") as status:
        from shotstream.evaluation.report import gap_header
        from shotstream.evaluation.run import (
            EvaluationConfig,
            evaluate_model,
            evaluate_policies,
            write_report,
        )
        from shotstream.streaming.choice import DEFAULT_OPTIONS

        policies = list(dict.fromkeys(context_policy or ()))
        config = EvaluationConfig(
            num_stories=stories,
            num_shots=shots,
            seed=seed,
            steps=steps,
            codec_only=codec_only,
            other_captions=other_captions,
            references=references,
            returns=returns,
            policy=policies[0] if len(policies) == 1 else None,
        )
        if mode != "recache" and not steering:
            raise ValueError("--mode says how shots are steered; give --steering too")
        if run is not None and (references or steering):
            raise ValueError("references and steering are scored for a model; export the run, and name it")

        def tell(num_done: int, num_all: int) -> None:
            status.update(f"{num_done} of {num_all} stories")

        if steering:
            if returns or policies:
                raise ValueError(
                    "--steering scores first shots, which have no context; leave out --returns and "
                    "--context-policy"
                )
            if references or no_context or other_captions or codec_only or by_shot or steps or shots != 5:
                raise ValueError(
                    "--steering steers one shot of each story, as it is; only --stories, --seed, --mode and "
                    "options of the model can be given with it"
                )
            from shotstream.evaluation.steering import evaluate_steering
            from shotstream.streaming.loading import load

            pipeline = load(
                model, device, precision=options.precision, memory=options.memory, expert=options.expert
            )
            steered = evaluate_steering(pipeline, num_stories=stories, seed=seed, mode=mode, progress=tell)
            print(steered.table())
            print(steered.json_line())
            return

        if run is None and (sampler_steps, guidance, context_guidance) != (25, 1.5, 1.0):
            raise ValueError("--sampler-steps and guidance are a teacher's: name its run with --run")

        if len(policies) > 1:
            if run is not None or no_context:
                raise ValueError("several policies are compared on a model with context; give one")
            reports = evaluate_policies(
                policies,
                model,
                config,
                device=device,
                options=options,
                directory=output,
                progress=tell,
            )
        elif run is None:
            report = evaluate_model(
                model,
                config,
                context=not no_context,
                device=device,
                options=options,
                directory=output,
                progress=tell,
            )
            reports = {report.facts.get("context_policy", "codec"): report}
        else:
            if codec_only:
                raise ValueError("--codec-only judges a model's codec; leave --run out")
            if options != DEFAULT_OPTIONS:
                raise ValueError("model options do not apply to a training run; leave them out")
            from shotstream.files import require_directory
            from shotstream.training.scores import evaluate_run

            require_directory(output)
            output.mkdir(parents=True, exist_ok=True)
            report = evaluate_run(
                run,
                runs,
                config,
                context=not no_context,
                sampler_steps=sampler_steps,
                guidance=guidance,
                context_guidance=context_guidance,
                sheet=output / "sheet.png",
                progress=tell,
            )
            write_report(report, output)
            reports = {report.facts["context_policy"]: report}
    for policy, report in reports.items():
        if len(reports) > 1:
            print(f"{policy}\n")
        print(report.table())
        print("\n" + report.framing_table())
        if by_shot:
            print("\n" + report.shot_table())
        print()
    if returns:
        print(gap_header())
        for policy, report in reports.items():
            print(report.gap_line(policy))
    for report in reports.values():
        print(report.json_line())
