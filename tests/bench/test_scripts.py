"""The scripts for a machine with a GPU and little else, run on a CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MISSING = ("av", "beartype", "diffusers", "fastapi", "ftfy", "playwright")
# Python runs a module of this name at its start.
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has torch, and not what is missing on such a machine."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'bare'}:{ROOT}", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_what_makes_frames_is_imported_without_what_writes_films(bare: dict[str, str]) -> None:
    """And the model is loaded without torch's compiler, which takes two seconds to import."""
    program = """
import importlib, sys
names = "measurements suite_worker supervise codec denoise cut shots overlap memory"
for name in names.split():
    importlib.import_module(f"shotstream.bench.{name}")
import shotstream.cli
from shotstream.streaming.loading import load
load("theatre", "cpu")
assert not {"av", "diffusers", "ftfy", "beartype", "torch._dynamo"} & set(sys.modules)
from shotstream.video.video_io import FragmentWriter
import numpy as np
try:
    FragmentWriter(12).write(np.zeros((1, 16, 16, 3), dtype=np.uint8))
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], env=bare, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "No module named 'av'\n"), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_script_runs_every_benchmark_without_what_a_gpus_machine_lacks(
    bare: dict[str, str], tmp_path: Path
) -> None:
    done = run(tmp_path / "out", bare)
    assert len(done.encode()) <= 8000
    results = read(tmp_path / "out")
    assert results[0]["benchmark"] == "generate" and results[0]["fps"] > 0
    assert all(result["device"] == "cpu" for result in results)
    # Only the benchmark of H.264 cannot be answered, and says why and what it has.
    (failed,) = [result for result in results if "error" in result]
    assert failed["benchmark"] == "h264" and failed["error"] == "ModuleNotFoundError: No module named 'av'"
    assert failed["none_fps"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("after", [0, 2])
def test_a_kill_loses_the_result_under_way_alone(after: int, tmp_path: Path) -> None:
    script = [ROOT / "bench" / "gpu_bench.sh", "-o", tmp_path, "--tiny"]
    program = subprocess.Popen(script, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while len(read(tmp_path)) < after:
            assert program.poll() is None
            time.sleep(0.2)
        time.sleep(1.0)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    results = read(tmp_path)
    assert len(results) in (after, after + 1)
    assert all("fps" in result for result in results[:1])


def run(output: Path, environment: dict[str, str]) -> str:
    """What the script prints."""
    script = [ROOT / "bench" / "gpu_bench.sh", "-o", output, "--tiny", "--limit", "1500"]
    done = subprocess.run(script, check=True, capture_output=True, text=True, env=environment)
    return done.stdout + done.stderr


def read(output: Path) -> list[dict[str, object]]:
    """All results; each line must be one."""
    file = output / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_a_light_tree_lacks_training_states_and_is_whole_again_afterwards(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    for name in ("bench/gpu_tree.sh", "resume/state.pt", "code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    script = tmp_path / "bench" / "gpu_tree.sh"
    script.write_bytes((ROOT / "bench" / "gpu_tree.sh").read_bytes())
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "all")
    (tmp_path / "new.py").write_text("new")
    before = git("status", "--porcelain"), git("ls-files", "-s")

    def bytes_of(state: str) -> int:
        done = subprocess.run(["bash", script, state], check=True, capture_output=True, text=True)
        return int(done.stdout.split()[0])

    light = bytes_of("light")
    assert bytes_of("light") == light == 1000 + 3 + script.stat().st_size
    assert "resume" not in git("ls-files", "--cached", "--others", "--exclude-standard")
    assert (tmp_path / "resume" / "state.pt").stat().st_size == 1000
    assert bytes_of("whole") == light + 1000
    assert (git("status", "--porcelain"), git("ls-files", "-s")) == before
