"""Several real processes make the film that one makes; gloo on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shotstream.streaming.sequence_parallel import shares
from tests.training.processes import run_by, torchrun


def film(num_processes: int, path: Path) -> dict[str, Tensor]:
    done = run_by(num_processes, ["-m", "tests.streaming.inference_group_member", str(path)])
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(path)


def test_shares_are_consecutive_whole_and_even() -> None:
    assert shares(12, 3) == (range(4), range(4, 8), range(8, 12))
    assert shares(3, 2) == (range(1), range(1, 3))
    for count, size in ((1560, 7), (15, 4), (5, 5)):
        parts = shares(count, size)
        assert [index for part in parts for index in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return film(1, tmp_path_factory.mktemp("alone") / "alone.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_stream_the_film_of_one_through_cuts_retakes_and_past_the_window(
    num_processes: int, alone: dict[str, Tensor], tmp_path: Path
) -> None:
    """Three processes share 4 heads and 6 tokens a frame unevenly. Products of fewer rows round otherwise."""
    together = film(num_processes, tmp_path / "together.safetensors")
    assert alone.keys() == together.keys() and len(alone) > 4
    for name in alone.keys() - {"frames"}:
        torch.testing.assert_close(together[name], alone[name], atol=1e-4, rtol=1e-4)
    different = (alone["frames"] != together["frames"]).any(-1).float().mean()
    # A pixel's colour is the largest of some logits: rounding may decide a tie otherwise.
    assert different < 1e-3
    assert alone["frames"].float().std() > 1


@pytest.mark.slow
def test_the_command_makes_the_film_of_one_process_and_too_many_processes_are_refused(tmp_path: Path) -> None:
    from shotstream.video.video_io import read_frames

    def generate(number: int) -> list[str]:
        film_path = tmp_path / f"{number}.mp4"
        return ["-m", "shotstream.cli", "generate", "fox-and-owl", "--device", "cpu", "-o", str(film_path)]

    for number, launcher in ((1, []), (2, torchrun(2))):
        done = run_by(1, [*launcher, *generate(number)])
        assert done.returncode == 0, done.stderr[-4000:]
    one, two = (np.asarray(read_frames(tmp_path / f"{number}.mp4")) for number in (1, 2))
    assert one.shape == two.shape
    assert (one != two).mean() < 1e-2
    done = run_by(4, generate(4))
    assert done.returncode != 0
    assert "4 processes cannot share 3 heads" in done.stderr
