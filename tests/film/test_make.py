import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from shotstream.film import (
    Film,
    FilmExistsError,
    FilmFiles,
    FilmPlan,
    FilmSettings,
    Progress,
    ReplayError,
    WorkDirError,
    count_differences,
    make_film,
    num_finished_shots,
    read_replay,
)
from shotstream.film.replay import hash_frames
from shotstream.film.storyboard import Panel
from shotstream.video.video_io import H264Settings, read_frames
from tests.film.fake_pipeline import ENVIRONMENT, FakePipeline, FakeSession, plan
from tests.params import first


class Writer:
    """Videos are written fast where it is not they that matter."""

    def __init__(self, path: Path, *_: object, **__: object) -> None:
        path.touch()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, frames: np.ndarray) -> None:
        assert len(frames)


@pytest.fixture
def fast_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("shotstream.film.make.Mp4Writer", Writer)
    monkeypatch.setattr(
        "shotstream.film.workdir.write_lossless", lambda path, frames, _: path.write_bytes(frames.tobytes())
    )
    monkeypatch.setattr(
        "shotstream.film.workdir.read_frames",
        lambda path: np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 16, 24, 3),
    )
    monkeypatch.setattr("shotstream.film.make.draw_storyboard", lambda *_: Image.new("RGB", (8, 8)))


def film(
    directory: Path,
    pipeline: FakePipeline | None = None,
    film_plan: FilmPlan | None = None,
    *,
    overwrite: bool = False,
    told: list[Progress] | None = None,
) -> Film:
    settings = FilmSettings(files=FilmFiles(film=directory / "film.mp4"), scale=2, overwrite=overwrite)
    on_progress = (told if told is not None else []).append
    return make_film(pipeline or FakePipeline(), film_plan or plan(), ENVIRONMENT, settings, on_progress)


def pinned_plan() -> FilmPlan:
    return replace(plan(), pins=((), ((0, 3),), ((0, 3), (1, 20)), ()))


@pytest.mark.slow
@pytest.mark.usefixtures("fast_videos")
def test_pinned_frames_are_pinned_for_their_shots_alone_also_after_an_interruption(tmp_path: Path) -> None:
    plain, pinned = film(tmp_path / "plain"), film(tmp_path / "pinned", film_plan=pinned_plan())
    hashes = [made.replay.frame_sha256 for made in (plain, pinned)]
    assert [one == other for one, other in zip(*hashes, strict=True)] == [True, False, False, True]
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path / "late", FakePipeline((2, 1), KeyboardInterrupt()), pinned_plan())
    assert film(tmp_path / "late", film_plan=pinned_plan()).replay == pinned.replay
    assert read_replay(pinned.files.replay) == pinned.replay


@pytest.mark.usefixtures("fast_videos")
def test_a_pinned_frame_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="frame 21 of shot 1 is pinned; it has 21"):
        film(tmp_path, film_plan=replace(plan(2), pins=((), ((0, 21),))))


def film_until_killed(directory: Path) -> None:
    film(directory, FakePipeline(stop_at=(2, 1)))


def test_a_film_has_its_four_files_and_nothing_else(tmp_path: Path) -> None:
    told: list[Progress] = []
    made = film(tmp_path / "new", told=told)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "film.mp4",
        "film.replay.json",
        "film.srt",
        "film.storyboard.png",
    ]
    assert read_frames(made.files.film).shape == (4 * 21, 32, 48, 3)
    with av.open(made.files.film) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()][:2] == [
            "1. Shot 0: a --> fox.",
            "2. Shot 1: a --> fox.",
        ]
        assert container.metadata["title"] == "A fox"
    with Image.open(made.files.storyboard) as page:
        assert page.size[0] > page.size[1] > 0
    assert read_replay(made.files.replay) == made.replay
    assert (
        made.files.subtitles.read_text().split("\n\n")[1]
        == "2\n00:00:01,750 --> 00:00:03,500\nShot 1: a → fox.\n".strip()
    )
    assert [(p.shot_index, p.chunk_index) for p in told[:4]] == [(0, None), (0, 0), (0, 1), (1, None)]
    assert (told[-1].num_frames, made.num_new_frames, made.num_resumed_shots) == (84, 84, 0)


@pytest.mark.slow
def test_a_film_killed_in_its_third_shot_goes_on_to_the_same_frames(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole")
    process = multiprocessing.get_context("spawn").Process(
        target=film_until_killed, args=(tmp_path / "killed",)
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    assert not (tmp_path / "killed" / "film.mp4").exists()
    pipeline = FakePipeline()
    resumed = film(tmp_path / "killed", pipeline)
    assert (resumed.num_resumed_shots, pipeline.num_chunks_made) == (2, 4)
    assert resumed.replay == whole.replay
    assert count_differences(resumed, whole.replay) == (0, "")
    assert not resumed.files.partial.exists()
    assert np.array_equal(read_frames(resumed.files.film), read_frames(whole.files.film))


@pytest.mark.usefixtures("fast_videos")
@pytest.mark.parametrize(
    "error", first(1, [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
)
@pytest.mark.parametrize("stop_at", [(0, 0), (0, 1), (3, 1)])
def test_what_is_done_stays_whatever_ends_a_run(
    tmp_path: Path, error: BaseException, stop_at: tuple[int, int]
) -> None:
    with pytest.raises(type(error)):
        film(tmp_path, FakePipeline(stop_at=stop_at, error=error))
    resumed = film(tmp_path)
    assert resumed.num_resumed_shots == stop_at[0]
    assert resumed.replay == film(tmp_path / "whole").replay


def test_a_run_that_ended_while_the_film_was_put_together_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_storyboard(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shotstream.film.make.draw_storyboard", no_storyboard)
        with pytest.raises(OSError, match="No space"):
            film(tmp_path)

    class Done(FakePipeline):
        def load_session(self, path: Path, *, quiet: bool = False) -> FakeSession:
            raise AssertionError(path, quiet)

    pipeline = Done()
    resumed = film(tmp_path, pipeline)
    assert (resumed.num_resumed_shots, resumed.num_new_frames, resumed.first_frame_s) == (4, 0, None)
    assert pipeline.num_chunks_made == 0 and resumed.generate_s == 0


@pytest.mark.usefixtures("fast_videos")
@pytest.mark.parametrize("name", ["film.mp4", "film.srt", "film.storyboard.png", "film.replay.json"])
def test_no_file_is_written_over_without_leave(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    pipeline = FakePipeline()
    with pytest.raises(FilmExistsError, match=f"{name} exists; give --overwrite"):
        film(tmp_path, pipeline)
    assert (tmp_path / name).read_text() == "mine"
    assert pipeline.num_chunks_made == 0
    film(tmp_path, overwrite=True)
    assert (tmp_path / name).read_bytes() != b"mine"


def test_the_old_film_stays_until_the_new_one_is_made(tmp_path: Path) -> None:
    first = film(tmp_path)
    before = first.files.film.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline(stop_at=(1, 0), error=KeyboardInterrupt()), plan(seed=8), overwrite=True)
    assert first.files.film.read_bytes() == before


@pytest.mark.usefixtures("fast_videos")
def test_unfinished_work_of_another_film_is_discarded_only_with_leave(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline(stop_at=(1, 0), error=KeyboardInterrupt()))
    with pytest.raises(WorkDirError, match="unfinished work with another seed and story"):
        film(tmp_path, film_plan=plan(seed=8))
    made = film(tmp_path, film_plan=plan(seed=8), overwrite=True)
    assert made.num_resumed_shots == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".mp4", ".png", ".srt"]


def whole_film(tmp_path: Path) -> Film:
    return film(tmp_path / "whole", film_plan=uneven_plan())


def uneven_plan() -> FilmPlan:
    """Three shots of different lengths; the third looks at pinned frames of both others."""
    shots = [
        replace(shot, num_chunks=num_chunks)
        for shot, num_chunks in zip(plan(3).story.shots, (1, 3, 2), strict=True)
    ]
    story = replace(plan(3).story, shots=tuple(shots))
    return replace(plan(3), story=story, pins=((), ((0, 8),), ((1, 32), (0, 3))))


@pytest.mark.usefixtures("fast_videos")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_ends_at_any_rename_goes_on_to_the_same_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A process is killed before or after each single rename or removal; the next run makes the same film."""

    expected = whole_film(tmp_path).replay
    num_steps = 0
    ends_at = -1
    kinds = {name: getattr(Path, name) for name in ("replace", "unlink")}
    rmtree = shutil.rmtree

    def step(act: Callable[..., object], *arguments: object, **options: object) -> object:
        nonlocal num_steps
        num_steps += 1
        if num_steps == ends_at and when == "before":
            raise Killed
        result = act(*arguments, **options)
        if num_steps == ends_at:
            raise Killed
        return result

    for name, act in kinds.items():
        monkeypatch.setattr(Path, name, lambda *given, act=act, **options: step(act, *given, **options))
    monkeypatch.setattr(shutil, "rmtree", lambda *given, **options: step(rmtree, *given, **options))
    names = ["film.mp4", "film.replay.json", "film.srt", "film.storyboard.png"]
    while True:
        ends_at += 1
        num_steps = 0
        folder = tmp_path / f"{ends_at}"
        try:
            film(folder, film_plan=uneven_plan())
        except Killed:
            pass
        else:
            if ends_at:
                break
            continue
        ended_at, ends_at = ends_at, -1
        there = [(folder / name).exists() for name in names]
        assert not there[0] or all(there), "the film comes last"
        try:
            again = film(folder, film_plan=uneven_plan())
        except FilmExistsError:
            assert there[0] and not (folder / "film.mp4.partial").exists()  # made, and cleared away
        else:
            assert again.replay == expected
        assert read_replay(folder / "film.replay.json") == expected
        left = {path.name for path in folder.iterdir()} - {"film.mp4.partial.old"}
        assert left == set(names)
        ends_at = ended_at
    assert ends_at > 3 * 3 + 4 + 4  # three files a shot, four of the film, each made and put in place


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("fast_videos")
def test_a_film_in_place_whose_work_was_not_cleared_away_is_done(tmp_path: Path) -> None:
    """An end between the two answered "exists" for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shotstream.film.workdir.WorkDir.remove", lambda _: None)
        made = film(tmp_path)
    assert made.files.partial.exists()
    before = made.files.film.read_bytes()
    pipeline = FakePipeline()
    again = film(tmp_path, pipeline)
    assert (again.num_resumed_shots, again.num_new_frames, pipeline.num_chunks_made) == (4, 0, 0)
    assert (again.generate_s, again.first_frame_s) == (0, None)
    assert again.replay == made.replay and made.files.film.read_bytes() == before
    assert not made.files.partial.exists()
    with pytest.raises(FilmExistsError):
        film(tmp_path)


@pytest.mark.usefixtures("fast_videos")
def test_unfinished_work_beside_another_finished_film_is_not_taken_for_it(tmp_path: Path) -> None:
    film(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline((1, 0), KeyboardInterrupt()), plan(seed=8), overwrite=True)
    for film_plan in (plan(), plan(seed=8)):
        with pytest.raises(FilmExistsError):
            film(tmp_path, film_plan=film_plan)


@pytest.mark.usefixtures("fast_videos")
@pytest.mark.parametrize(
    "changes",
    [{"torch": "1"}, {"device": "cuda H100"}, {"dtype": "bfloat16"}, {"num_threads": 2}, {"shotstream": "1"}],
)
def test_work_begun_where_frames_come_out_differently_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, str | int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline((2, 0), KeyboardInterrupt()))
    elsewhere = replace(ENVIRONMENT, **changes)
    settings = FilmSettings(files=FilmFiles(film=tmp_path / "film.mp4"))
    (name, value) = next(iter(changes.items()))
    with pytest.raises(
        WorkDirError, match=f"begun where frames come out differently .{name} was .*, is {value}"
    ):
        make_film(FakePipeline(), plan(), elsewhere, settings, lambda _: None)
    assert num_finished_shots(settings.files.partial) == 2
    made = make_film(FakePipeline(), plan(), elsewhere, replace(settings, overwrite=True), lambda _: None)
    assert made.num_resumed_shots == 0 and made.replay.environment == elsewhere


def test_chapters_and_subtitles_change_with_the_pictures(tmp_path: Path) -> None:
    made = whole_film(tmp_path)
    with av.open(made.files.film) as container:
        spans = [
            (float(chapter["start"] * chapter["time_base"]), float(chapter["end"] * chapter["time_base"]))
            for chapter in container.chapters()
        ]
    # 9, 33 and 21 frames at 12 a second.
    assert spans == [pytest.approx(span, abs=1e-3) for span in ((0, 0.75), (0.75, 3.5), (3.5, 5.25))]
    times = [line for line in made.files.subtitles.read_text().splitlines() if "-->" in line]
    assert times == [
        "00:00:00,000 --> 00:00:00,750",
        "00:00:00,750 --> 00:00:03,500",
        "00:00:03,500 --> 00:00:05,250",
    ]


@pytest.mark.usefixtures("fast_videos")
def test_finished_shots_are_counted_as_they_are_on_the_disk(tmp_path: Path) -> None:
    partial = tmp_path / "film.mp4.partial"
    assert num_finished_shots(partial) == 0
    for stop_at, num_shots in (((0, 1), 0), ((1, 0), 1), ((3, 1), 3)):
        with pytest.raises(KeyboardInterrupt):
            film(tmp_path, FakePipeline(stop_at, KeyboardInterrupt()))
        assert num_finished_shots(partial) == num_shots


@pytest.mark.usefixtures("fast_videos")
def test_two_processes_do_not_make_one_film_at_once(tmp_path: Path) -> None:
    class Meanwhile(FakePipeline):
        def before_chunk(self, shot_index: int, chunk_index: int) -> None:
            if (shot_index, chunk_index) == (0, 0):
                with pytest.raises(WorkDirError, match="another process"):
                    film(tmp_path, overwrite=True)

    film(tmp_path, Meanwhile())


@pytest.mark.usefixtures("fast_videos")
def test_a_directory_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    strange = tmp_path / "film.mp4.partial"
    strange.mkdir()
    (strange / "notes.txt").write_text("mine")
    with pytest.raises(WorkDirError, match=r"notes\.txt"):
        film(tmp_path, overwrite=True)
    assert (strange / "notes.txt").read_text() == "mine"


def test_a_finished_shot_that_changed_on_disk_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline(stop_at=(2, 0), error=KeyboardInterrupt()))
    partial = tmp_path / "film.mp4.partial"
    (partial / "shot_0001.mkv").write_bytes((partial / "shot_0000.mkv").read_bytes())
    pipeline = FakePipeline()
    with pytest.raises(WorkDirError, match=r"shot_0001\.mkv has changed"):
        film(tmp_path, pipeline)
    assert pipeline.num_chunks_made == 0  # it is found before time is spent on the others


@pytest.mark.usefixtures("fast_videos")
def test_a_replay_tells_which_frame_differs_first(tmp_path: Path) -> None:
    made = film(tmp_path / "a")
    other = film(tmp_path / "b", film_plan=plan(seed=9))
    num_different, first = count_differences(made, other.replay)
    assert (num_different, first) == (84, "shot 1, frame 0")


def test_frame_hashes_do_not_depend_on_the_arrays_layout() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    assert hash_frames(frames) == hash_frames(np.asfortranarray(frames))
    assert len(set(hash_frames(frames))) == 2


def test_a_film_is_an_mp4() -> None:
    with pytest.raises(ValueError, match=r"\.mp4"):
        FilmFiles(film=Path("film.mov"))


@pytest.mark.parametrize(
    "left", ["an empty folder", "work without its plan", "no replay", "a damaged replay"]
)
@pytest.mark.usefixtures("fast_videos")
def test_a_film_that_is_not_known_to_come_of_the_work_beside_it_is_not_told_made(
    tmp_path: Path, left: str
) -> None:
    """Else another film would be handed back as the one that was ordered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shotstream.film.workdir.WorkDir.remove", lambda _: None)
        made = film(tmp_path)
    match left:
        case "an empty folder":
            shutil.rmtree(made.files.partial)
            made.files.partial.mkdir()
        case "work without its plan":
            (made.files.partial / "plan.json").unlink()
        case "no replay":
            made.files.replay.unlink()
        case _:
            made.files.replay.write_text("{}")
    for film_plan in (plan(), plan(seed=8)):
        with pytest.raises(FilmExistsError, match=r"film\.mp4 exists"):
            film(tmp_path, film_plan=film_plan)
    assert made.files.partial.is_dir()


@pytest.mark.usefixtures("fast_videos")
def test_of_unfinished_work_there_is_what_the_next_run_needs_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline((3, 1), KeyboardInterrupt()))
    assert sorted(path.name for path in (tmp_path / "film.mp4.partial").iterdir()) == [
        "lock", "plan.json", "session_0002",
        *(f"shot_000{index}.{kind}" for index in range(3) for kind in ("json", "mkv")),
    ]  # fmt: skip


@pytest.mark.usefixtures("fast_videos")
@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"frame_sha256": 3}', '{"frame_sha256": ["\xe9'])
@pytest.mark.parametrize("name", ["plan.json", "shot_0000.json"])
def test_damaged_work_is_told_with_its_place_and_what_to_do(tmp_path: Path, name: str, damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline((1, 0), KeyboardInterrupt()))
    partial = tmp_path / "film.mp4.partial"
    (partial / name).write_bytes(damage.encode("latin-1"))
    told = (
        "holds no unfinished film of this version; delete it" if name == "plan.json" else "is damaged; delete"
    )
    with pytest.raises(WorkDirError, match=told) as refused:
        film(tmp_path)
    assert str(partial) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted as Linux shows them")
@pytest.mark.usefixtures("fast_videos")
def test_a_film_that_another_process_is_making_leaves_no_descriptor_open(tmp_path: Path) -> None:
    left: list[int] = []

    class Meanwhile(FakePipeline):
        def before_chunk(self, shot_index: int, chunk_index: int) -> None:
            if (shot_index, chunk_index) == (0, 0):
                before = len(list(Path("/proc/self/fd").iterdir()))
                with pytest.raises(WorkDirError, match="another process"):
                    film(tmp_path)
                left.append(len(list(Path("/proc/self/fd").iterdir())) - before)

    film(tmp_path, Meanwhile(), plan(1))
    assert left == [0]


@pytest.mark.usefixtures("fast_videos")
def test_the_folder_is_flushed_with_the_film_in_place_before_its_work_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FilmFiles(film=tmp_path / "film.mp4")
    flushed: list[tuple[Path, bool, bool]] = []

    def flush(folder: Path) -> None:
        flushed.append((folder, files.film.exists(), files.partial.exists()))

    monkeypatch.setattr("shotstream.film.make.flush", flush)
    film(tmp_path, film_plan=plan(1))
    assert flushed == [(tmp_path, True, True)]


@pytest.mark.usefixtures("fast_videos")
def test_where_no_film_can_be_written_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    pipeline = FakePipeline()
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(WorkDirError, match="file is a file, and no directory for a film"):
            film(folder, pipeline)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(WorkDirError, match="cannot be written to: it is read-only"):
        film(tmp_path / "new" / "deeper", pipeline, overwrite=True)
    assert pipeline.num_chunks_made == 0 and not (tmp_path / "new").exists()


@pytest.mark.usefixtures("fast_videos")
def test_a_film_is_begun_as_planned_and_its_page_shows_the_middle_of_each_shot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int, str | None]] = []
    pages: list[tuple[str, str, list[Panel]]] = []
    middles: list[np.ndarray] = []

    class Watched(FakePipeline):
        def session(
            self, global_caption: str, *, seed: int = 0, policy: str | None = None, **options: Any
        ) -> FakeSession:
            begun.append((global_caption, seed, policy))
            return super().session(global_caption, seed=seed, policy=policy, **options)

    def page(*given: Any) -> Image.Image:
        pages.append(given)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("shotstream.film.make.draw_storyboard", page)
    monkeypatch.setattr(Writer, "write", lambda _, frames: middles.append(frames[len(frames) // 2]))
    film(tmp_path, Watched(), uneven_plan())
    assert begun == [("A red fox.", 7, "theatre")]
    ((title, global_caption, panels),) = pages
    assert (title, global_caption) == ("A fox", "A red fox.")
    assert [panel.caption for panel in panels] == [f"Shot {index}: a --> fox." for index in range(3)]
    assert [panel.duration_s for panel in panels] == [9 / 12, 33 / 12, 21 / 12]
    assert all(np.array_equal(panel.picture, middle) for panel, middle in zip(panels, middles, strict=True))


@pytest.mark.usefixtures("fast_videos")
def test_a_film_counts_its_frames_and_times_its_shots_until_they_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves by 1 for a chunk and by 100 while a shot is kept."""
    now = 1000.0

    class Slow(FakePipeline):
        def before_chunk(self, shot_index: int, chunk_index: int) -> None:
            nonlocal now
            super().before_chunk(shot_index, chunk_index)
            now += 1

    def keep(self: FakeSession, path: Path) -> None:
        nonlocal now
        now += 100
        path.write_text(json.dumps(self.history))

    monkeypatch.setattr(FakeSession, "save", keep)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    with pytest.raises(KeyboardInterrupt):
        film(tmp_path, FakePipeline((1, 0), KeyboardInterrupt()), uneven_plan())
    told: list[Progress] = []
    made = film(tmp_path, Slow(), uneven_plan(), told=told)
    assert [(p.shot_index, p.chunk_index, p.num_chunks, p.num_frames, p.elapsed_s) for p in told] == [
        (1, None, 3, 0, 0), (1, 0, 3, 9, 1), (1, 1, 3, 21, 2), (1, 2, 3, 33, 3),
        (2, None, 2, 33, 3), (2, 0, 2, 42, 104), (2, 1, 2, 54, 105),
    ]  # fmt: skip
    assert {p.num_shots for p in told} == {3}
    assert (made.num_new_frames, made.first_frame_s, made.generate_s) == (54, 1, 205)


def test_the_longest_name_that_a_disk_takes_is_a_films() -> None:
    """The longest file beside `NAME.mp4` is `.part.NAME.storyboard.png`; 255 bytes are a name's most."""
    fits = "é" * 117
    assert FilmFiles(film=Path(f"{fits}.MP4")).storyboard.name == f"{fits}.storyboard.png"
    with pytest.raises(ValueError, match="is too long; shorten it by 1 bytes"):
        FilmFiles(film=Path(f"{fits}x.mp4"))


@pytest.mark.usefixtures("fast_videos")
def test_a_film_is_as_large_and_as_fast_as_it_was_made_unless_it_is_to_be_enlarged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []

    def begin(_: Writer, path: Path, fps: int, h264: H264Settings, **__: object) -> None:
        path.touch()
        written.append((fps, h264.scale))

    monkeypatch.setattr(Writer, "__init__", begin)
    film(tmp_path / "twice", film_plan=plan(1))
    settings = FilmSettings(files=FilmFiles(film=tmp_path / "once" / "film.mp4"))
    make_film(FakePipeline(), plan(1), ENVIRONMENT, settings, lambda _: None)
    assert written == [(12, 2), (12, 1)]
