"""Films, replays and saved sessions, of the embedded model and of a tiny one of the 1.3B family."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from safetensors import safe_open

from scripts.equality.recording import Recording
from scripts.equality.results import file_tensors, sha256, sha256_of, tensors_of

HERE = Path(__file__).parent
STORY = HERE / "story.yaml"
SHORT = HERE / "short.yaml"
POLICIES = ("published", "first_frames", "first_and_last_frames", "target_caption")
OPTIONS = {
    "steps 2": ("--steps", 2),
    "bfloat16": ("--precision", "bfloat16"),
    "float8": ("--precision", "float8"),
    "memory low": ("--memory", "low"),
    "memory lowest": ("--memory", "lowest"),
    "overlap": ("--overlap",),
    "no overlap": ("--no-overlap",),
}
KILLED_AFTER = 4
"""Shots after which a film is killed, at least."""


def picture(path: Path) -> str:
    """The sha256 of a picture's pixels."""
    with Image.open(path) as image:
        return sha256(np.asarray(image.convert("RGBA")).tobytes())


def frames(path: Path) -> list[str]:
    """The sha256 of every frame of a video, as it is decoded."""
    with av.open(str(path)) as container:
        return [sha256(frame.to_ndarray(format="rgb24").tobytes()) for frame in container.decode(video=0)]


def bundle(directory: Path) -> dict[str, Any]:
    """The tensors of a bundle and its configuration."""
    parts = {path.stem: file_tensors(path)["tensors"] for path in sorted(directory.glob("*.safetensors"))}
    found: dict[str, Any] = {"tensors": {f"{a}.{b}": entry for a in parts for b, entry in parts[a].items()}}
    config = json.loads((directory / "config.json").read_text())["config"]
    found["tensors"] |= {
        f"config.{name}": ["json", [], json.dumps(value), 0.0] for name, value in config.items()
    }
    return found


def with_engine(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a bundle whose films are made otherwise."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    document = json.loads((source / "config.json").read_text())
    document.pop("document_sha256", None)  # bundles of earlier versions have none
    document["config"]["engine"] |= changes
    (target / "config.json").write_text(json.dumps(document))
    return target


def film(
    run: Recording, what: str, story: Path, *options: object, model: object = "theatre", all_: bool = False
) -> Path:
    """Makes a film and records its frames' hashes; with `all_` also all that lies beside it."""
    path = run.work / "films" / f"{what.replace('/', '-').replace(' ', '-')}.mp4"
    common = ("--model", model, "--scale", 1, "--device", "cpu", "--overwrite")
    run.checkout.run("generate", story, "-o", path, *common, *options)
    keep_film(run, what, path, all_=all_)
    return path


def keep_film(run: Recording, what: str, path: Path, *, all_: bool) -> None:
    """Records a film that was made."""
    replay = json.loads(path.with_suffix(".replay.json").read_text())
    run.add(f"{what}/frames", replay["frame_sha256"])
    if all_:
        run.add(f"{what}/replay", {key: value for key, value in replay.items() if key != "frame_sha256"})
        run.add(f"{what}/mp4 decoded", frames(path))
        run.add(f"{what}/mp4 file", sha256_of(path))
        run.add(f"{what}/subtitles", path.with_suffix(".srt").read_text())
        run.add(f"{what}/storyboard", picture(path.with_suffix(".storyboard.png")))


def films(run: Recording) -> None:
    """Films, and those that the old code began or made, gone on with or made again."""
    with run.section("films/eight shots"):
        film(run, "films/eight shots", STORY, all_=True)
    for name, options in OPTIONS.items():
        with run.section(f"films/{name}"):
            film(run, f"films/{name}", SHORT, *options)
    shipped = run.checkout.path / "shotstream" / "theatre" / "bundle"
    for policy in POLICIES:
        with run.section(f"films/policy {policy}"):
            model = with_engine(shipped, run.work / "bundles" / policy, context_policy=policy)
            film(run, f"films/policy {policy}", STORY, "--steps", 1, model=model)
    if (run.work / "wan").exists():
        with run.section("films/wan"):
            film(run, "films/wan", STORY, model=run.work / "wan", all_=True)
    with run.section("films/replayed"):
        made = run.old / "films" / "films-eight-shots.replay.json"
        again = run.work / "films" / "again.mp4"
        run.checkout.run("generate", made, "-o", again, "--scale", 1, "--device", "cpu", "--overwrite")
        keep_film(run, "films/replayed", again, all_=True)
    with run.section("films/pinned"):
        _pinned(run)
    with run.section("films/killed"):
        _killed(run)
    with run.section("films/session"):
        _session(run)


def _pinned(run: Recording) -> None:
    """A replay that pins frames: its film is made, and no hash of it is right."""
    document = json.loads((run.old / "films" / "films-eight-shots.replay.json").read_text())
    num_shots = len(document["plan"]["story"]["shots"])
    document["plan"]["pins"] = [[[0, 2], [1, 3]] if index > 4 else [] for index in range(num_shots)]
    path, made = run.work / "films" / "pins.replay.json", run.work / "films" / "pinned.mp4"
    path.write_text(json.dumps(document))
    run.checkout.run("generate", path, "-o", made, "--scale", 1, "--device", "cpu", "--overwrite", code=1)
    keep_film(run, "films/pinned", made, all_=False)


def _killed(run: Recording) -> None:
    """A film that the old code was killed in is made to its end, and equals the one that was not."""
    if run.continues_itself:
        folder = run.empty_dir("killed")
        shutil.copy(STORY, folder / "story.yaml")
        process = run.checkout.start("generate", "story.yaml", "--scale", 1, "--device", "cpu", cwd=folder)
        partial, end_s = folder / "film.mp4.partial", time.monotonic() + 120
        while not (partial / f"shot_{KILLED_AFTER - 1:04}.json").exists() and time.monotonic() < end_s:
            assert process.poll() is None, "the film was made before it was killed"
            time.sleep(0.01)
        process.kill()
        process.communicate()
    folder = run.copy_from_old("killed", "gone on")
    session = max((folder / "film.mp4.partial").glob("session_????"))
    run.add("films/killed/session", _takes(session, KILLED_AFTER))
    run.checkout.run("generate", "story.yaml", "--scale", 1, "--device", "cpu", cwd=folder)
    keep_film(run, "films/killed", folder / "film.mp4", all_=True)


def _takes(path: Path, num_takes: int) -> Mapping[str, Any]:
    """The latents of a saved session's first takes."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if int(name.rpartition(".")[2]) < num_takes]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    return tensors_of(tensors)


def _session(run: Recording) -> None:
    """A session is saved, loaded by the new code and gone on with."""
    folder = run.work / "session"
    folder.mkdir(exist_ok=True)
    script = HERE / "session.py"
    if run.continues_itself:
        run.checkout.run("begin", folder / "begun", script=script)
    run.copy_from_old("session/begun", "session/copied")
    output = run.checkout.run("go-on", folder / "copied", folder / "ended", script=script)
    run.add("films/session/frames", json.loads(output.splitlines()[-1]))
    for name in ("copied", "ended"):
        with safe_open(folder / name, "pt") as file:
            run.add(f"films/session/{name}", json.loads(file.metadata()["session"]))
        run.add(f"films/session/{name} latents", _takes(folder / name, 99))
