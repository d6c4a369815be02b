"""The schedules of students are measured side by side, and their sizes are known without files."""

import torch

from shotstream.bench.models import random_config
from shotstream.bench.students import bench_students
from shotstream.geometry import PixelSize
from shotstream.weights.students import STUDENTS


def test_every_student_that_makes_films_is_measured_and_its_passes_are_counted() -> None:
    done: list[int] = []
    report = bench_students(PixelSize(16, 16), torch.device("cpu"), 1, done.append)
    assert done == [1]
    names = [student.name for student in STUDENTS.values() if student.support == "films"]
    assert [row.key for row in report.rows] == [
        f"{name}_{what}" for name in names for what in ("ms", "ratio")
    ]
    labels = {row.key: row.label for row in report.rows}
    # Steps of 7 chunks and 6 commits; the context of ShotStream besides.
    assert "self-forcing, 34 passes" in labels["self-forcing_ms"]
    assert "shotstream, 35 passes" in labels["shotstream_ms"]
    # 4 + 20 of one step, 20 commits; and 11 windows with 6 commits.
    assert "causal-forcing-1step, 44 passes" in labels["causal-forcing-1step_ms"]
    assert "rolling-forcing, 17 passes" in labels["rolling-forcing_ms"]
    assert report.value("shotstream_ratio") == 1


def test_a_students_config_is_that_of_an_import() -> None:
    config = random_config("reward-forcing", with_text=False)
    assert config["engine"]["rules"]["sink_ema"] == 0.999
    assert config["dit"]["num_context_frames"] == 0 and config["dit"]["dim"] == 1536
