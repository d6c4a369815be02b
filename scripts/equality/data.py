"""Clips, shards, an imported model, goldens and scores."""

import json
import re
import tarfile
from pathlib import Path
from typing import Any

from safetensors.torch import load

from scripts.equality.films import bundle, frames, picture, with_engine
from scripts.equality.recording import Recording, scores
from scripts.equality.results import file_tensors, tensors_of

HERE = Path(__file__).parent


def models(run: Recording) -> None:
    """A tiny model of the 1.3B family, imported from files in the published layout; they are the old ones."""
    with run.section("models/import"):
        if run.continues_itself:
            run.checkout.run(run.empty_dir("published"), script=HERE / "published.py")
        run.checkout.run(
            "weights",
            "import",
            run.old / "published",
            "--as",
            "tiny",
            "-o",
            run.work / "imported",
            "--overwrite",
        )
        run.add("models/import", bundle(run.work / "imported"))
        size = {"height": 32, "width": 48}
        with_engine(run.work / "imported", run.work / "wan", pixel_size=size, num_chunks=2)
    with run.section("models/show"):
        output = run.checkout.run("weights", "show", run.old / "imported")
        run.add("models/show", re.findall(r"sha256 \w+", output))


def data(run: Recording) -> None:
    """Clips of the theatre are written and encoded."""
    clips = run.empty_dir("clips")
    with run.section("data/write"):
        run.checkout.run("theatre", "write", clips, "--stories", 5, "--shots", 4, "--seed", 1)
        for path in sorted(clips.iterdir()):
            run.add(f"data/{path.name}", frames(path) if path.suffix == ".mp4" else path.read_text())
    for name, model, more in (
        ("theatre", "theatre", ("--no-text",)),
        ("wan", run.work / "wan", ("--max-latent-frames", 6)),
    ):
        with run.section(f"data/encode {name}"):
            shards = run.empty_dir(f"shards-{name}")
            common = ("--model", model, "--shard-size", 2, "--workers", 0, "--device", "cpu")
            run.checkout.run("data", "encode", clips / "clips.jsonl", "-o", shards, *common, *more)
            for path in sorted(shards.iterdir()):
                run.add(f"data/encode {name}/{path.name}", _file(path))
        with run.section(f"data/check {name}"):
            output = run.checkout.run("data", "check", run.old / f"shards-{name}")
            checked = json.loads(output.splitlines()[-1])
            run.add(f"data/check {name}", {key: checked[key] for key in checked if key != "directory"})


def _file(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix != ".tar":
        return file_tensors(path)
    members: dict[str, Any] = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            content = file.read()
            members[member.name] = load(content) if member.name.endswith(".safetensors") else content.decode()
    return tensors_of(members)


def numbers(run: Recording) -> None:
    """Goldens of the published code, and the oracle's scores at fixed seeds."""
    with run.section("numbers/goldens"):
        goldens = run.checkout.path / "tests" / "assets" / "goldens"
        output = run.checkout.run("verify", goldens, "--device", "cpu")
        lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
        run.add("numbers/goldens", [cells for cells in lines if cells])
    scored = {
        "theatre": ("--stories", 2),
        "without context": ("--stories", 1, "--no-context", "--seed", 5),
        "other captions": ("--stories", 1, "--shots", 2, "--other-captions", "--steps", 2),
        "codec": ("--stories", 1, "--shots", 2, "--codec-only"),
    }
    if (run.work / "runs" / "theatre_inter_shot").exists():
        runs = ("--stories", 1, "--shots", 2, "--runs", run.work / "runs")
        scored |= {"student's run": (*runs, "--run", "theatre_inter_shot")}
        guided = ("--sampler-steps", 3, "--guidance", 2, "--context-guidance", 1.5)
        scored |= {"teacher's run": (*runs, "--run", "theatre_teacher", *guided)}
    for name, options in scored.items():
        with run.section(f"numbers/{name}"):
            out = run.work / "evaluation" / name.replace(" ", "-").replace("'", "")
            output = run.checkout.run("evaluate", "-o", out, *options)
            run.add(f"numbers/{name}", scores(output))
            for path in sorted(out.glob("*.png")):
                run.add(f"numbers/{name}/{path.name}", picture(path))
