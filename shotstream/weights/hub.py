"""The hub of weights: resolves model names, downloads published files, and imports them into bundles.

`resolve` returns a directory for `theatre` (part of the package), for an imported model, or for a path.
`download` fetches a repository and trusts it the first time only: its revision and the SHA-256 of each file
go to a lock file, and every later download must agree with it. `import_weights` converts published files
once.

A machine without access to the hub needs no download: `import_weights` takes a directory of the files,
wherever they were fetched, and the error of a failed download lists these files. The download was never run
against the hub itself; the tests use a local server.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from shotstream.configs import config_to_document
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.files import at_home, write_atomically
from shotstream.geometry import WAN_FRAME_SIZE
from shotstream.model.student_rules import StudentRules
from shotstream.weights.bundle import write_bundle
from shotstream.weights.official import PublishedSource, PublishedWeights, read_published
from shotstream.weights.students import STUDENTS, Student
from shotstream.weights.tensor_files import CheckpointError, read_json, sha256_of_file

THEATRE = "theatre"
WAN = "wan-1.3b"

# Frames per second of the videos that the published inference code writes.
_FPS = 16
# Files that an import reads of a base model, for users who fetch them by other means.
_FILES_NEEDED = {
    "Wan-AI/Wan2.1-T2V-1.3B": (
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "google/umt5-xxl/tokenizer.json",
    ),
}
_BUILTIN_BUNDLE = Path(__file__).parents[1] / "theatre" / "bundle"
_LOCK_NAME = "weights.lock.json"
_LOCK_VERSION = 1
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


class WeightsNotFoundError(ValueError):
    """A name without weights; the message says how to get them."""


class DownloadError(RuntimeError):
    """The hub cannot be reached, or does not have the repository; the message says how to do without it."""


class LockError(ValueError):
    """Downloaded files or a revision that differ from the lock file, or a damaged lock file."""


# Fetches a repository at a revision (None: the newest) into a directory; returns the commit it fetched.
Fetch = Callable[[str, str | None, Path], str]


def home() -> Path:
    """Returns the directory of downloads and imports: SHOTSTREAM_HOME, else the user's cache directory.

    Raises:
        ValueError: SHOTSTREAM_HOME is not set, and the user has no home directory.
    """
    remedy = "let SHOTSTREAM_HOME name a folder for models"
    if chosen := os.environ.get("SHOTSTREAM_HOME"):
        return at_home(Path(chosen), remedy)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else at_home(Path("~/.cache"), remedy)) / "shotstream"


def resolve(name_or_path: str | Path) -> Path:
    """Returns the bundle directory of a model (`theatre`, `wan-1.3b` or any imported one) or path.

    Nothing is read. A known name has priority over a directory of that name in the current directory; write
    `./theatre` for the directory.

    Raises:
        WeightsNotFoundError: There are no such weights; the message says what to do.
    """
    text = str(name_or_path)
    if text == THEATRE:
        if not (_BUILTIN_BUNDLE / "config.json").is_file():
            raise WeightsNotFoundError(
                f"{_BUILTIN_BUNDLE}: the package came without its embedded model; install it again"
            )
        return _BUILTIN_BUNDLE
    is_name = isinstance(name_or_path, str) and _MODEL_NAME.fullmatch(text) is not None
    if is_name and (imported := _imported(text) / "config.json").is_file():
        return imported.parent
    if text != WAN and Path(name_or_path).is_dir():
        return Path(name_or_path)
    if text == WAN:
        raise WeightsNotFoundError(
            f"{WAN} is not imported yet ({_imported(WAN)}); run `shotstream weights download "
            f"Wan-AI/Wan2.1-T2V-1.3B` (or bring its files from a machine that reaches huggingface.co) and "
            f"then `shotstream weights import DIR --as {WAN}`"
        )
    raise WeightsNotFoundError(
        f"no model {text!r}: neither a directory nor one of {', '.join(available())}; "
        f"the built-in names are {THEATRE} and {WAN}"
    )


def available() -> tuple[str, ...]:
    """Returns the names that `resolve` finds now: the embedded model and every imported one."""
    imported = sorted(path.parent.name for path in (home() / "models").glob("*/config.json"))
    return (THEATRE, *imported)


def import_weights(
    source: PublishedSource | Path,
    *,
    as_: str = WAN,
    notes: list[str] | None = None,
    out: Path | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts published files into a bundle, one tensor at a time; returns the bundle's directory.

    Args:
        source: The files, or just their directory.
        as_: The name for `resolve`; lower-case letters, digits, dots and dashes. The name of a student of
            `STUDENTS` imports that student.
        notes: Messages for the user about what was read are appended here.
        out: The directory to create instead of the one under `home()`.
        dtype: Dtype in which floating-point tensors are stored; None keeps the published one.
        overwrite: Replace an existing bundle.

    Raises:
        CheckpointError: The files are incomplete, damaged or of another model.
        BundleError: The bundle exists already.
        ValueError: `as_` is not a usable name.
    """
    if _MODEL_NAME.fullmatch(as_) is None or as_ == THEATRE:
        raise ValueError(
            f"{as_!r} cannot name an imported model; use letters, digits, '.', '-', for example {WAN}"
        )
    source = source if isinstance(source, PublishedSource) else PublishedSource(directory=source)
    weights = read_published(replace(source, student=source.student or STUDENTS.get(as_)))
    directory = _imported(as_) if out is None else out
    write_bundle(
        directory,
        bundle_config(weights, as_),
        {"dit": weights.dit, "codec": weights.codec, "text_encoder": weights.text_encoder},
        files={"tokenizer.json": weights.tokenizer},
        dtype=dtype,
        overwrite=overwrite,
        provenance=weights.provenance,
    )
    if notes is not None:
        notes += weights.notes
    return directory


def bundle_config(weights: PublishedWeights, model_id: str) -> dict[str, Any]:
    """Returns the config of an imported bundle: pipeline settings, and the sizes of each network."""
    student = weights.student
    if student is not None and student.rules is not None:
        return _student_config(student, student.rules, weights, model_id)
    return {
        "engine": {
            "family": "wan",
            "model_id": model_id,
            "fps": _FPS,
            "pixel_size": asdict(WAN_FRAME_SIZE),
            "num_chunks": weights.dit_config.window_chunks,
            "context_policy": "published",
            "student_steps": STUDENT_STEPS,
            "shift": FlowSchedule().shift,
        },
        "dit": weights.dit_config.to_document(),
        "codec": asdict(weights.codec_config),
        "text_encoder": asdict(weights.text_config),
    }


def _student_config(
    student: Student, rules: StudentRules, weights: PublishedWeights, model_id: str
) -> dict[str, Any]:
    return {
        "engine": {
            "family": "wan",
            "model_id": model_id,
            "fps": _FPS,
            "pixel_size": asdict(WAN_FRAME_SIZE),
            "num_chunks": student.num_chunks,
            "context_policy": "none",
            "student_steps": rules.steps,
            "shift": rules.shift,
            "rules": config_to_document(rules),
        },
        "dit": student.config(weights.dit_config).to_document(),
        "codec": asdict(weights.codec_config),
        "text_encoder": asdict(weights.text_config),
    }


def download(repository: str, revision: str | None = None, *, fetch: Fetch | None = None) -> Path:
    """Returns the directory of a repository's files; fetches them unless they agree with the lock file.

    The first download records the revision and the SHA-256 of the files; later ones are compared with them,
    whatever the server says. Files that agree already are not fetched again, so this works offline after the
    first download.

    Args:
        repository: For example Wan-AI/Wan2.1-T2V-1.3B.
        revision: Commit, branch or tag; None takes the locked revision, or the newest the first time.
        fetch: A replacement for the Hugging Face hub.

    Raises:
        LockError: The revision or a file differs from the lock file, or that is damaged.
        DownloadError: The hub cannot be reached, or does not have the repository.
        ValueError: `repository` is not the name of a repository, or huggingface_hub is not installed.
    """
    if _REPOSITORY.fullmatch(repository) is None:
        raise ValueError(
            f"{repository!r} is not a repository; write owner/name, for example Wan-AI/Wan2.1-T2V-1.3B"
        )
    target = home() / "downloads" / repository.replace("/", "--")
    lock_path = home() / _LOCK_NAME
    lock = _read_lock(lock_path)
    entry = lock.get(repository)
    if entry is not None:
        if revision is not None and revision not in (entry["revision"], entry["requested"]):
            raise LockError(
                f"{repository} is locked to revision {entry['revision']}, not {revision}; to change it, "
                f"remove its entry from {lock_path}"
            )
        if target.is_dir() and not _differences(_hash_files(target), entry["files"]):
            return target
    target.mkdir(parents=True, exist_ok=True)
    wanted = revision if entry is None else entry["revision"]
    fetched = (fetch or fetch_from_hub)(repository, wanted, target)
    files = _hash_files(target)
    if entry is None:
        if not files:
            raise LockError(f"{repository}: nothing was fetched; check the name and the revision")
        lock[repository] = {"requested": revision, "revision": fetched, "files": files}
        _write_lock(lock_path, lock)
        return target
    differing = _differences(files, entry["files"])
    if fetched != entry["revision"] or differing:
        what = f"files {', '.join(differing[:3])}" if differing else f"revision {fetched}"
        raise LockError(
            f"{repository}: {what} of {len(entry['files'])} files differ from {lock_path}; "
            f"do not use {target}, remove it and download again; failing that, the published files changed"
        )
    return target


def fetch_from_hub(
    repository: str, revision: str | None, target: Path, *, endpoint: str | None = None
) -> str:
    """Fetches a repository from the Hugging Face hub; returns the commit that was fetched.

    Args:
        repository: For example Wan-AI/Wan2.1-T2V-1.3B.
        revision: Commit, branch or tag; None takes the newest.
        target: The directory to fill.
        endpoint: Address of the hub; None takes huggingface_hub's, which HF_ENDPOINT sets.

    Raises:
        DownloadError: The hub cannot be reached, or does not have the repository or the revision.
        ValueError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HTTPError,  # pyright: ignore[reportPrivateImportUsage] (of whichever client it uses)
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise ValueError(
            "downloading needs huggingface_hub; install it with: pip install 'shotstream[wan]'"
        ) from error
    host = endpoint or constants.ENDPOINT
    try:
        commit = HfApi(endpoint=host).model_info(repository, revision=revision).sha
        assert commit is not None, "the hub names the commit of every revision"
        snapshot_download(repository, revision=commit, local_dir=target, endpoint=host)
    except GatedRepoError as error:
        raise DownloadError(
            f"{repository} asks for an account: accept its terms at {host}/{repository}, log in with `hf "
            "auth login`, and download again"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{host} has no repository {repository}, or not for everyone; check the name, or log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"{repository} at {host} has no revision {revision!r}; leave it out") from error
    except OfflineModeIsEnabled as error:
        why = "HF_HUB_OFFLINE is set here; unset it, or"
        raise DownloadError(_without_hub(repository, host, why)) from error
    except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise DownloadError(_without_hub(repository, host, f"{host} could not be reached;")) from error
    return commit


def _without_hub(repository: str, host: str, why: str) -> str:
    files, use = _FILES_NEEDED.get(repository), f"weights import DIR --as {WAN}"
    student = next((one for one in STUDENTS.values() if one.repository == repository), None)
    if student is not None:
        files = (student.files[0], *(() if student.lora is None else (student.lora.file,)))
        named = "" if student.rules is None else f" --as {student.name}"
        use = f"weights import ...{named} --checkpoint DIR/{student.files[0]}"
    wanted = f"the files {', '.join(files)}" if files else "all its files"
    return (
        f"{repository} was not fetched: {why} on a machine that reaches it run `hf download {repository} "
        "--local-dir "
        f"DIR`, or take {wanted} from {host}/{repository}/tree/main; copy DIR here, and run `shotstream "
        f"{use}`"
    )


def _imported(name: str) -> Path:
    return home() / "models" / name


def _hash_files(directory: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file by its path, without files whose name begins with a dot."""
    return {
        path.relative_to(directory).as_posix(): sha256_of_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    }


def _differences(found: Mapping[str, str], locked: Mapping[str, str]) -> list[str]:
    return sorted(name for name in found.keys() | locked.keys() if found.get(name) != locked.get(name))


def _read_lock(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        document = read_json(path)
    except CheckpointError as error:
        raise LockError(f"{error}; restore the lock file, or remove it to trust the next download") from error
    entries = document.get("repositories")
    sound = isinstance(entries, dict) and all(
        isinstance(entry, dict)
        and entry.keys() == {"requested", "revision", "files"}
        and isinstance(entry["files"], dict)
        for entry in entries.values()
    )
    if document.get("format_version") != _LOCK_VERSION or not sound:
        raise LockError(
            f"{path}: not a lock file of this version; restore it, or remove it to trust the next "
            "download again"
        )
    return document["repositories"]


def _write_lock(path: Path, entries: Mapping[str, Any]) -> None:
    """Replaces the lock file atomically: a crash leaves the old one."""
    document = {"format_version": _LOCK_VERSION, "repositories": entries}
    write_atomically((json.dumps(document, indent=1, sort_keys=True) + "\n").encode(), path)
