"""SIGKILL at any moment of long work: the same command resumes, and what comes out is what would have."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attacks.tally import Tally
from tests.training.test_run import CODEC

ROOT = Path(__file__).parents[2]
LONGEST_S = 1500
TRAIN = ["train.num_steps=40", "train.save_every=3", "train.preview_every=1000", "train.log_every=1"]


def attack_with_kills(kills: int, folder: Path, rng: random.Random) -> Iterator[Tally]:
    """A row for each command that takes long."""
    _run(["theatre", "write", "clips", "--stories", "8", "--shots", "3"], folder)
    training = [part for setting in [*CODEC, *TRAIN] for part in ("--set", setting)]
    for name, command, result in (
        ("generate", ["generate", "fox-and-owl", "--device", "cpu", "-o", "{}.mp4"], _film),
        ("data encode", ["data", "encode", "clips/clips.csv", "-o", "{}", "--shard-size", "1"], _folder),
        ("train", ["train", "theatre_codec", "--runs", "{}", *training], _weights),
    ):
        tally = Tally(name=f"kill -9 of {name}")
        with tally.timed():
            _attack(command, result, kills, folder, rng, tally)
        yield tally
    yield _studio(kills, folder)


def _attack(
    command: list[str],
    result: Callable[[Path, str], str],
    kills: int,
    folder: Path,
    rng: random.Random,
    tally: Tally,
) -> None:
    """Kills the command until it has been killed so often, or has ended; then lets it end."""
    begun = time.monotonic()
    _run([part.format("whole") for part in command], folder)
    whole_s, wanted = time.monotonic() - begun, result(folder, "whole")
    killed = 0
    for number in range(kills):
        name = f"killed{number}"
        arguments = [part.format(name) for part in command]
        for _ in range(rng.randrange(1, 4)):
            process = _started(arguments, folder)
            try:
                process.communicate(timeout=rng.uniform(0.3, 0.95) * whole_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
        if command[0] != "generate" or not _is_filmed(folder, name):
            process = _started(arguments, folder)
            _, said = process.communicate(timeout=LONGEST_S)
            if process.returncode != 0:
                tally.add(f"kill {killed}: it does not go on: {said[-200:]!r}")
                continue
        got = result(folder, name)
        tally.add(None if got == wanted else f"kill {killed}: what came out differs")


def _studio(kills: int, folder: Path) -> Tally:
    """A studio that is killed while a story is directed; the script says what it holds to."""
    tally = Tally(name="kill -9 of serve")
    with tally.timed():
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "studio_kills"), "--kills", str(2 * kills)],
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    for _ in range(2 * kills):
        tally.add(None)
    if done.returncode != 0:
        tally.clean -= 1
        tally.broken.append(done.stderr[-300:])
    return tally


def _film(folder: Path, name: str) -> str:
    """The film's hashes; a film that is there is whole."""
    return json.dumps(json.loads((folder / f"{name}.replay.json").read_text())["frame_sha256"])


def _is_filmed(folder: Path, name: str) -> bool:
    return (folder / f"{name}.mp4").exists() and not (folder / f"{name}.mp4.partial").exists()


def _folder(folder: Path, name: str) -> str:
    digest = hashlib.sha256()
    for file in sorted((folder / name).rglob("*")):
        digest.update(file.name.encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


def _weights(folder: Path, name: str) -> str:
    from shotstream.training.checkpoint import checkpoints, load_checkpoint
    from tests.attacks.files import fingerprint

    return fingerprint(load_checkpoint(checkpoints(folder / name / "theatre_codec")[-1]))


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}


def _started(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shotstream.cli", *arguments],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(arguments: list[str], folder: Path) -> None:
    process = _started(arguments, folder)
    _, said = process.communicate(timeout=LONGEST_S)
    if process.returncode != 0:
        raise RuntimeError(f"shotstream {' '.join(arguments)}: {said[-500:]}")
