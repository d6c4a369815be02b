"""Files that came to harm, given to the doors that read them: refused in one line, or nothing has changed."""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import random
import resource
import shutil
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from shotstream.data.clips import ClipForm, iter_shots
from shotstream.data.shard_check import check_shards
from shotstream.data.shards import ShardError
from shotstream.film.replay import Environment, FilmPlan, Replay, ReplayError, hash_frames, read_replay
from shotstream.film.workdir import FinishedShot, WorkDirError, load_frames
from shotstream.geometry import WAN_GEOMETRY, PixelSize
from shotstream.manifest import Clip, ManifestError, read_manifest, write_manifest
from shotstream.story import Shot, Story, StoryError, read_story
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import SessionError, Take, read_session
from shotstream.studio.media_store import CorruptTakeError, MediaStore, TakeFiles, encode_recording
from shotstream.studio.take_record import TakeRecord
from shotstream.training.checkpoint import load_checkpoint, save_atomically
from shotstream.verify import verify_directory
from shotstream.video.video_io import VideoError, write_lossless, write_mp4
from shotstream.weights.bundle import BundleError, read_bundle
from shotstream.weights.checkpoints import read_transformer
from shotstream.weights.key_names import dit_shapes
from shotstream.weights.lora import LoraSource, merge_loras, read_lora
from shotstream.weights.tensor_files import CheckpointError, LazyTensor
from tests.attacks.damage import draw
from tests.attacks.tally import Tally, fault_of_message
from tests.data.tiny import tiny_shards
from tests.streaming.test_pipeline import write_tiny
from tests.streaming.tiny import tiny_config, tiny_pipeline
from tests.training.test_checkpoint import write_directory

LONGEST_READ_S = 20
MOST_BYTES_MORE = 2**30

Judge = Callable[[Any, Any], bool]


def same(good: Any, read: Any) -> bool:
    return fingerprint(good) == fingerprint(read)


def sound(_good: Any, _read: Any) -> bool:
    """A form without sums, where another caption is a caption: whatever was read passed its own checks."""
    return True


def never(_good: Any, _read: Any) -> bool:
    """A form with sums over every byte: what has changed is found."""
    return False


def of_a_size(_good: Any, read: Any) -> bool:
    """Pictures have no sums; that they are of the size that was asked for can be seen."""
    return all(shot.frames.shape[1:] == (48, 64, 3) for shot in read)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file."""

    name: str
    make: Callable[[Path], Path]
    """Writes a good one into an empty folder; returns what is read (a file, or a folder of several)."""
    read: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...]
    """What the door may raise."""
    judge: Judge
    """(Read of the good one, read of the damaged one): is it all right that the damaged one was read?"""


def attack_files(tries: int, folder: Path, rng: random.Random) -> Iterator[Tally]:
    """Damages each kind of file so often; a row for each."""
    for kind in kinds():
        tally = Tally(name=f"damaged {kind.name}")
        with tally.timed():
            attack_kind(kind, tries, folder, rng, tally)
        yield tally


def attack_kind(kind: Kind, tries: int, folder: Path, rng: random.Random, tally: Tally) -> None:
    """Damages one kind of file so often."""
    home = folder / "good"
    home.mkdir()
    where = kind.make(home).relative_to(home)
    good = kind.read(home / where)
    files = [file for file in sorted((home / where).rglob("*")) if file.is_file()] or [home / where]
    for number in range(tries):
        name, damage = draw(rng)
        broken = folder / "broken"
        shutil.copytree(home, broken)
        victim = rng.choice(files)
        before = victim.read_bytes()
        after = damage(before, rng)
        (broken / victim.relative_to(home)).write_bytes(after)
        told = f"{victim.name}, {name} ({number})"
        fault = None if after == before else fault_of(kind, broken / where, good)
        harmless = fault == HARMLESS
        tally.add(f"{told}: {fault}" if fault and not harmless else None, unseen=harmless)
        shutil.rmtree(broken)
    shutil.rmtree(home)


HARMLESS = "read"


def fault_of(kind: Kind, path: Path, good: Any) -> str | None:
    """What does not hold; `HARMLESS` when it was read and that is all right, None when it was refused."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MOST_BYTES_MORE
    try:
        with at_most(LONGEST_READ_S):
            read = kind.read(path)
    except kind.refusals as error:
        return fault_of_message(str(error))
    except TimeoutError:
        return f"still reading after {LONGEST_READ_S} s"
    except Exception as error:  # whatever else comes out is what is looked for
        return f"{type(error).__name__}: {str(error)[:150]}"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > most:
        return "more than 1 GiB of memory"
    return HARMLESS if kind.judge(good, read) else "read as if it were whole, with other content"


@contextmanager
def at_most(seconds: float) -> Generator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fingerprint(value: Any) -> str:
    """Of everything that a reader returned, tensors included."""
    digest = hashlib.sha256()
    _feed(value, digest.update)
    return digest.hexdigest()


def _feed(value: Any, feed: Callable[[bytes], object]) -> None:
    if isinstance(value, LazyTensor):
        value = value.load()
    if isinstance(value, Tensor):
        feed(repr((tuple(value.shape), value.dtype)).encode())
        value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        feed(repr((value.shape, value.dtype)).encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(cast("Mapping[Any, Any]", value), key=str):
            feed(repr(key).encode())
            _feed(value[key], feed)
    elif isinstance(value, list | tuple):
        for item in cast("list[Any]", value):
            feed(b",")
            _feed(item, feed)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _feed({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, feed)
    else:
        feed(repr(value).encode())


STORY = Story(
    title="The fox and the owl",
    seed=7,
    global_caption="A story about a purple fox and a yellow owl in the forest at sunset.",
    shots=(
        Shot(caption="Wide shot: the purple fox walks to the right in the forest at sunset."),
        Shot(caption="Close-up: the yellow owl sleeps — in the “woods” at dusk.", num_chunks=4),
        Shot(caption="Medium shot: the purple fox waves.", seed=12),
    ),
)


def kinds() -> tuple[Kind, ...]:
    return (
        Kind(name="story (YAML)", make=_yaml, read=read_story, refusals=(StoryError,), judge=sound),
        Kind(name="story (JSON)", make=_published, read=read_story, refusals=(StoryError,), judge=sound),
        Kind(
            name="manifest (CSV)", make=_csv, read=_clips, refusals=(ManifestError, StoryError), judge=sound
        ),
        Kind(name="manifest (JSON Lines)", make=_jsonl, read=_clips, refusals=(ManifestError,), judge=sound),
        Kind(name="clip (H.264)", make=_mp4, read=_shots_of, refusals=(VideoError,), judge=of_a_size),
        Kind(name="working files of a film", make=_work, read=_shot, refusals=(WorkDirError,), judge=same),
        Kind(name="take of the studio", make=_take, read=_kept, refusals=(CorruptTakeError,), judge=same),
        Kind(name="shards of latents", make=_shards, read=_findings, refusals=(ShardError,), judge=never),
        Kind(name="bundle", make=_bundle, read=read_bundle, refusals=(BundleError,), judge=same),
        Kind(
            name="weights (.pt)", make=_generator, read=_generator_of, refusals=(CheckpointError,), judge=same
        ),
        Kind(
            name="weights (.safetensors)",
            make=_safetensors,
            read=_generator_of,
            refusals=(CheckpointError,),
            judge=sound,
        ),
        Kind(name="LoRA (.pt)", make=_lora, read=_lora_of, refusals=(CheckpointError,), judge=same),
        Kind(name="training checkpoint", make=_run, read=load_checkpoint, refusals=(ValueError,), judge=same),
        Kind(
            name="distributed checkpoint",
            make=_sharded_run,
            read=load_checkpoint,
            refusals=(ValueError,),
            judge=same,
        ),
        Kind(name="saved session", make=_session, read=read_session, refusals=(SessionError,), judge=same),
        Kind(name="replay", make=_replay, read=read_replay, refusals=(ReplayError,), judge=sound),
        Kind(name="golden", make=_golden, read=_verified, refusals=(ValueError,), judge=sound),
    )


def _yaml(home: Path) -> Path:
    import yaml

    text = yaml.safe_dump(STORY.to_document(), allow_unicode=True, sort_keys=False)
    (home / "story.yaml").write_text(text, encoding="utf-8")
    return home / "story.yaml"


def _published(home: Path) -> Path:
    text = json.dumps(STORY.to_published_document(), ensure_ascii=False, indent=2)
    (home / "story.json").write_text(text, encoding="utf-8")
    return home / "story.json"


def _csv(home: Path) -> Path:
    _published(home)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("json_path", "video_path", "frame_number", "shot_num_from_caption"))
    for number in range(3):
        writer.writerow(("story.json", f"{number}.mp4", "[[0, 20], [20, 36], [38, 48]]", 3))
    (home / "clips.csv").write_text(text.getvalue(), encoding="utf-8")
    return home / "clips.csv"


def _jsonl(home: Path) -> Path:
    ranges = ((0, 20), (20, 36), (38, 48))
    clips = [Clip(video=home / f"{number}.mp4", story=STORY, shot_ranges=ranges) for number in range(3)]
    write_manifest(home / "clips.jsonl", clips)
    return home / "clips.jsonl"


def _clips(path: Path) -> list[Any]:
    return list(read_manifest(path))


def _pictures() -> np.ndarray[Any, Any]:
    """A square that walks: 48 frames, so that a lost one is seen."""
    frames = np.full((48, 48, 64, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[16:32, index : index + 16] = (200, 60 + 3 * index, 90)
    return frames


def _mp4(home: Path) -> Path:
    write_mp4(home / "clip.mp4", _pictures(), 12)
    return home / "clip.mp4"


def _shots_of(path: Path) -> Any:
    form = ClipForm(size=PixelSize(48, 64), fps=12, geometry=WAN_GEOMETRY, max_latent_frames=21)
    return list(iter_shots(Clip(video=path, story=STORY, shot_ranges=((0, 20), (20, 36), (38, 48))), form))


def _work(home: Path) -> Path:
    write_lossless(home / "frames.mkv", _pictures(), 12)
    return home / "frames.mkv"


def _shot(path: Path) -> Any:
    hashes = hash_frames(_pictures())
    return load_frames(FinishedShot(shot_index=0, frames_file=path, frame_sha256=hashes))


STORY_ID, TAKE_ID = "0" * 16, "1" * 16


@functools.cache
def _filmed() -> tuple[StreamingPipeline, np.ndarray[Any, Any], Take]:
    pipeline = tiny_pipeline()
    session = pipeline.session("a forest night", seed=3)
    frames = np.concatenate([chunk.frames for chunk in session.shot("a fox walks")])
    return pipeline, frames, session.shots[0]


def _take(home: Path) -> Path:
    """A take's folder, and what the database knows of it in a file beside."""
    pipeline, frames, memory = _filmed()
    recording = encode_recording(pipeline, 2, frames, (9, len(frames)))
    kept = MediaStore(home / "media", pipeline).save_take(
        STORY_ID, TAKE_ID, TakeFiles(recording=recording, frames=frames, memory=memory)
    )
    record = TakeRecord(
        take_id=TAKE_ID,
        shot_id="2" * 16,
        created_at="",
        caption="a fox walks",
        global_caption="a forest night",
        seed=3,
        num_steps=4,
        num_chunks=memory.num_chunks,
        num_frames=len(frames),
        was_cut=False,
        before=(),
        context=(),
        weights_sha256=pipeline.weights_sha256,
        environment={},
        header_bytes=len(recording.header),
        chunk_bytes=tuple(map(len, recording.fragments)),
        num_bytes=kept.num_bytes,
        frame_sha256=hash_frames(frames),
        file_sha256=kept.file_sha256,
    )
    (home / "record.json").write_text(json.dumps(record.to_document()), encoding="utf-8")
    return home / "media" / STORY_ID / TAKE_ID


def _kept(path: Path) -> Any:
    root = path.parents[1]
    record = TakeRecord.from_document(json.loads((root.parent / "record.json").read_text(encoding="utf-8")))
    folder = MediaStore(root, _filmed()[0])
    return [
        read(STORY_ID, record) for read in (folder.read_recording, folder.read_frames, folder.read_memory)
    ]


def _shards(home: Path) -> Path:
    return tiny_shards(home / "data", ((9, 13, 30), (21, 21), (9, 9, 9, 45), (30,)), clips_per_shard=2)


def _findings(path: Path) -> list[Any]:
    """Of an undamaged directory nothing is damaged; a finding of damage is a refusal."""
    findings = list(check_shards(path))
    for finding in findings:
        if finding.damage:
            raise ShardError(finding.damage)
    return findings


def _bundle(home: Path) -> Path:
    write_tiny(home / "tiny", tiny_pipeline())
    return home / "tiny"


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = dit_shapes(tiny_config())
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _generator(home: Path) -> Path:
    torch.save({"generator": _tensors(), "step": 100}, home / "model.pt")
    return home / "model.pt"


def _generator_of(path: Path) -> Any:
    return _loaded(read_transformer(path, tiny_config()).tensors)


def _lora_of(path: Path) -> Any:
    weights = {name: LazyTensor.of(tensor) for name, tensor in _tensors().items()}
    return _loaded(merge_loras(weights, [read_lora(LoraSource(path=path), weights)]))


def _loaded(tensors: Mapping[str, LazyTensor]) -> dict[str, Tensor]:
    """As an import loads them: what a file holds is checked when it is read."""
    return {name: tensor.load() for name, tensor in tensors.items()}


def _safetensors(home: Path) -> Path:
    save_file(_tensors(), home / "model.safetensors")
    return home / "model.safetensors"


def _lora(home: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for name, shape in dit_shapes(tiny_config()).items():
        if name.endswith("self_attn.q.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(4, shape[1], generator=generator)
            tensors[f"{module}.lora_B.weight"] = torch.randn(shape[0], 4, generator=generator)
    torch.save({"generator_lora": tensors}, home / "lora.pt")
    return home / "lora.pt"


def _run(home: Path) -> Path:
    save_atomically({"step": 3, "stage": {"model": _tensors(), "samples": 24}}, home / "step_0000003.pt")
    return home / "step_0000003.pt"


def _sharded_run(home: Path) -> Path:
    return write_directory(home / "step_0000003", 3, {"model": _tensors(), "samples": 24})


def _session(home: Path) -> Path:
    session = tiny_pipeline().session("a forest night", seed=3)
    chunks = list(session.shot("a fox walks"))
    session.pin(chunks[0].frames[0], 0)
    session.save(home / "story.session")
    return home / "story.session"


def _replay(home: Path) -> Path:
    shots = tuple(dataclasses.replace(shot, num_chunks=2, seed=7) for shot in STORY.shots)
    replay = Replay(
        plan=FilmPlan(
            model_id="tiny",
            weights_sha256="0" * 64,
            context_policy="theatre",
            num_steps=4,
            seed=7,
            story=dataclasses.replace(STORY, shots=shots),
        ),
        environment=Environment(shotstream="1", torch="2", device="cpu", dtype="float32", num_threads=1),
        frame_sha256=tuple(hash_frames(_pictures()[16 * shot : 16 * shot + 16]) for shot in range(3)),
    )
    (home / "film.json").write_text(replay.to_json(), encoding="utf-8")
    return home / "film.json"


def _golden(home: Path) -> Path:
    shutil.copy(
        Path(__file__).parents[1] / "assets/goldens/dmd_gradient.safetensors", home / "dmd.safetensors"
    )
    return home


def _verified(path: Path) -> None:
    """A row that has not passed is a refusal."""
    for row in verify_directory(path):
        if not row.passed:
            raise ValueError(row.message or f"{row.file}: {row.tensor} differs")
