"""Recipes, stopped and resumed runs, ablations, and weights that runs leave behind."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scripts.equality.films import bundle, picture
from scripts.equality.recording import Recording, scores
from scripts.equality.results import file_tensors, sha256
from scripts.equality.tiny_recipes import (
    HALF,
    LOOP,
    NUM_STEPS,
    RECIPES,
    ROW_NAMES,
    ROWS,
    STEPS,
    STOP_AT,
    leaves_of,
    spelled,
)

TIMES = ("steps_per_s", "samples_per_s", "peak_memory_gb")


def train(run: Recording, runs: Path, name: str, settings: Mapping[str, Any], *more: object) -> str:
    """Trains a recipe at tiny size."""
    document = json.loads(run.checkout.run("train", name, "--dry-run"))
    words = [word for setting in spelled(settings, document) for word in ("--set", setting)]
    return run.checkout.run("train", name, "--runs", runs, "--device", "cpu", *words, *more)


def settings_of(run: Recording, name: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe's settings; those of the 1.3B family train on shards of the tiny model of that family."""
    settings = {NUM_STEPS: STEPS, **LOOP, **RECIPES[name]}
    if name.startswith("wan_"):
        settings |= _wan(run)
    return {**settings, **(more or {})}


def _wan(run: Recording) -> dict[str, Any]:
    sizes = json.loads((run.work / "wan" / "config.json").read_text())["config"]["dit"]
    # dim is a multiple of the heads, whichever is set first
    names = (
        "num_heads",
        "dim",
        "ffn_dim",
        "num_layers",
        "latent_channels",
        "text_dim",
        "text_length",
        "freq_dim",
    )
    return {
        **{f"dit.{name}": sizes[name] for name in names},
        "pool.directory|data.directory?": run.work / "shards-wan",
        "model.text.directory?": run.work / "shards-wan",
        "pool.num_workers|data.num_workers?": 0,
        "pool.max_latent_frames|data.max_latent_frames?": 6,
        "start": run.work / "wan",
        "batch_size?": 2,
    }


def keep_run(run: Recording, what: str, directory: Path) -> None:
    """Records what a run left behind: its losses, every tensor of every checkpoint, pairs, previews."""
    log = directory / "log.jsonl"
    if log.exists():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        run.add(f"{what}/log", [{name: line[name] for name in line if name not in TIMES} for line in lines])
    for path in sorted(directory.glob("step_*.pt")):
        run.add(f"{what}/{path.stem}", file_tensors(path))
    pairs = {path.stem: _tensors(path) for path in sorted(directory.glob("*.safetensors"))}
    if pairs:
        run.add(
            f"{what}/pairs", {"tensors": {f"{a}.{b}": entry for a in pairs for b, entry in pairs[a].items()}}
        )
    previews = sorted(directory.glob("*.png"))
    if previews:
        run.add(f"{what}/previews", {path.name: picture(path) for path in previews})


def _tensors(path: Path) -> dict[str, Any]:
    return file_tensors(path)["tensors"]


def recipes(run: Recording) -> None:
    """Twenty steps of every recipe."""
    runs = run.empty_dir("runs")
    names = [name for name in RECIPES if not name.startswith("wan_") or (run.work / "wan").exists()]
    for name in names:
        with run.section(f"recipes/{name}"):
            train(run, runs, name, settings_of(run, name))
            keep_run(run, f"recipes/{name}", runs / name)
    for name in RECIPES:
        with run.section(f"settings/{name}"):
            run.add_note(name, _values(json.loads(run.checkout.run("train", name, "--dry-run"))))


def _values(document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of a recipe's settings by their last name, since places change."""
    found: dict[str, list[Any]] = {}
    for path, value in leaves_of(document):
        short = value if len(json.dumps(value)) < 100 else sha256(json.dumps(value).encode())[:12]
        values = found.setdefault(path.rpartition(".")[2], [])
        if short not in values:
            values.append(short)
    return found


def resumed(run: Recording) -> None:
    """Runs that were stopped half-way, by the old code, and end as those that were not."""
    for name in RECIPES:
        what, half, whole = f"resumed/{name}", f"stopped/{name}", run.work / "resumed" / name
        with run.section(what):
            steps = settings_of(run, name)[NUM_STEPS]
            stop = {STOP_AT: min(HALF, (steps + 1) // 2)}
            if run.continues_itself:
                run.empty_dir(half)
                # What the run begins at is there; the run itself is not.
                shutil.copytree(
                    run.work / "runs",
                    run.work / half,
                    ignore=shutil.ignore_patterns(name),
                    dirs_exist_ok=True,
                )
                train(run, run.work / half, name, _where_it_was(run, settings_of(run, name, stop)))
            run.copy_from_old(half, f"resumed/{name}")
            train(run, whole, name, _where_it_was(run, settings_of(run, name)))
            keep_run(run, what, whole / name)
            straight = [
                key
                for key in run.things
                if key.startswith((f"recipes/{name}/step_", f"recipes/{name}/pairs"))
            ]
            differing = [key for key in straight if run.things[f"resumed{key[7:]}"] != run.things[key]]
            run.add(f"{what}/differs from the straight run in", differing)


def _where_it_was(run: Recording, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the folders of the recording that a run was begun in: they are settings of it."""
    return {
        name: run.old / value.relative_to(run.work) if isinstance(value, Path) else value
        for name, value in settings.items()
    }


def ablations(run: Recording) -> None:
    """Every row of the ablations, at a few steps a stage."""
    settings: list[str] = []
    for stage, values in ROWS.items():
        document = json.loads(run.checkout.run("train", stage, "--dry-run"))
        settings += [f"{stage}:{setting}" for setting in spelled({**LOOP, **values}, document)]
    runs = run.empty_dir("rows")
    for name in ("theatre_codec", "theatre_decoder"):
        shutil.copytree(run.work / "runs" / name, runs / name)
    train(run, runs, "theatre_teacher", settings_of(run, "theatre_teacher", {"text.questions": "[]"}))
    for row in ROW_NAMES:
        with run.section(f"ablations/{row}"):
            output = ablate(run, row, runs, settings)
            found = runs / "rows" / f"{row}-0"
            run.add(f"ablations/{row}/scores", scores(output))
            for directory in sorted(path for path in found.iterdir() if path.name.startswith("mini_")):
                keep_run(run, f"ablations/{row}/{directory.name}", directory)


def ablate(run: Recording, row: str, runs: Path, settings: list[str]) -> str:
    """Trains and scores a row of the ablations."""
    words = [word for setting in settings for word in ("--set", setting)]
    sizes = ("--stories", 1, "--shots", 2, "--teacher-steps", 4)
    return run.checkout.run("ablate", row, "--runs", runs, *sizes, *words)


def weights(run: Recording) -> None:
    """Exports, packed runs and what begins at them; and the runs that are packed beside the code."""
    runs = run.work / "runs"
    for name in (
        "theatre_teacher",
        "theatre_causal_init",
        "theatre_inter_shot",
        "wan_teacher",
        "wan_inter_shot",
    ):
        with run.section(f"weights/export {name}"):
            output = run.checkout.run(
                "weights", "export", name, "--runs", runs, "-o", run.work / "exported" / name
            )
            run.add(f"weights/export {name}", bundle(run.work / "exported" / name))
            run.add(f"weights/export {name}/sha256", output.split()[-1])
    for name in ("theatre_codec", "theatre_decoder", "theatre_teacher", "theatre_inter_shot"):
        with run.section(f"weights/pack {name}"):
            (run.work / "packed").mkdir(exist_ok=True)
            path = run.work / "packed" / f"{name}.pt"
            run.checkout.run("weights", "pack", name, "--runs", runs, "-o", path)
            run.add(f"weights/pack {name}", file_tensors(path))
    for name in ("theatre_codec", "theatre_teacher"):
        with run.section(f"weights/start {name}"):
            begun = run.empty_dir(f"begun/{name}")
            if name != "theatre_codec":
                for needed in ("theatre_codec", "theatre_decoder"):
                    shutil.copytree(run.old / "runs" / needed, begun / needed)
            more = {NUM_STEPS: STEPS + 4, "save_every": 100}
            train(
                run,
                begun,
                name,
                settings_of(run, name, more),
                "--start-from",
                run.old / "packed" / f"{name}.pt",
            )
            keep_run(run, f"weights/start {name}", begun / name)
    with run.section("weights/resume"):
        _shipped(run)


def _shipped(run: Recording) -> None:
    """The packed runs of the embedded model are read, and its teacher goes on for a step at full size."""
    runs, packed = run.empty_dir("shipped"), run.checkout.path / "resume"
    for name in ("theatre_codec", "theatre_decoder", "theatre_teacher"):
        steps = torch.load(packed / f"{name}.pt", map_location="cpu", weights_only=True)["step"]
        more: dict[str, Any] = {NUM_STEPS: steps, **LOOP}
        if name == "theatre_teacher":
            more |= {NUM_STEPS: steps + 1, "pool.block_stories|data.block_stories?": 2, "batch_size": 2}
            more |= {"pool.num_blocks|data.num_blocks?": 1, "pool.num_shots|data.num_shots?": "[2]"}
        train(run, runs, name, more, "--start-from", packed / f"{name}.pt")
    keep_run(run, "weights/resume", runs / "theatre_teacher")
