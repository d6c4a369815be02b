"""Whatever happens to the worker, every benchmark but the current one keeps its result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shotstream.bench.suite import SUITE, SuiteConfig
from shotstream.bench.supervise import MAX_BYTES, supervise

ROOT = Path(__file__).parents[2]

# Stands in for the worker: `deeds` says what happens to each benchmark.
WORKER = """
import json, os, sys, threading, time
from pathlib import Path
from shotstream.bench.results import ResultFile
from shotstream.bench.suite_worker import _end_with_parent

given, deeds = json.loads(sys.argv[2]), json.loads(sys.argv[1])
threading.Thread(target=_end_with_parent, daemon=True).start()
Path(given["results"]).with_name("pids").open("a").write(f"{os.getpid()}\\n")
events = os.fdopen(given["events"], "w", buffering=1)
tell = lambda event, **values: events.write(json.dumps({"event": event, **values}) + "\\n")
print("a library's words", flush=True)
if deeds.get("load") == "fails":
    sys.exit("no such card")
tell("loaded", device="card", threads=1)
for name, variant in given["benchmarks"]:
    deed = deeds.get(f"{name}: {variant}", deeds.get(name, "results"))
    if deed == "is left out":
        tell("skipped")
        continue
    tell("started")
    if deed == "ends":
        os._exit(7)
    if deed == "hangs":
        time.sleep(60)
    result = {"benchmark": name, "variant": variant, "device": "card", "fps": 2.0}
    if deed == "spoils the card":
        result["error"] = "RuntimeError: CUDA"
    ResultFile(Path(given["results"])).add(result)
    if deed == "ends unreported":
        os._exit(7)
    tell("finished", result=result)
    if deed == "spoils the card":
        sys.exit(3)
tell("done")
"""


def run(directory: Path, limit_s: float = 60.0, **deeds: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, results, and what was shown."""
    shown: list[str] = []
    worker = (sys.executable, "-c", WORKER, json.dumps(deeds))
    code = supervise(
        SuiteConfig(), SUITE, directory, limit_s=limit_s, command="c", say=shown.append, worker=worker
    )
    lines = (directory / "results.jsonl").read_text().splitlines()
    return code, [json.loads(line) for line in lines], "".join(shown)


def test_every_benchmark_has_a_result_in_its_order_and_the_table_comes_last(tmp_path: Path) -> None:
    code, results, shown = run(tmp_path, machine="is left out")
    assert code == 0
    asked = [benchmark.key for benchmark in SUITE if benchmark.name != "machine"]
    assert [(result["benchmark"], result["variant"]) for result in results] == asked
    assert len(shown.encode()) <= MAX_BYTES < 8000
    assert shown.splitlines()[-len(asked)].startswith("generate, nothing compiled")
    assert "library" not in shown and "library" in (tmp_path / "log.txt").read_text()
    assert "| generate, nothing compiled | fps 2 |" in (tmp_path / "results.md").read_text()


def test_a_process_that_ends_costs_its_benchmark_and_no_other(tmp_path: Path) -> None:
    code, results, _ = run(tmp_path, baseline="ends", encode="ends")
    assert code == 0 and len(results) == len(SUITE)
    failed = [result for result in results if "error" in result]
    assert [result["benchmark"] for result in failed] == ["baseline", "encode"]
    assert all(result["device"] == "card" and "ended with 7" in result["error"] for result in failed)


def test_a_benchmark_that_leaves_the_card_unusable_keeps_its_own_error(tmp_path: Path) -> None:
    _, results, _ = run(tmp_path, baseline="spoils the card")
    assert len(results) == len(SUITE)
    assert [result["error"] for result in results if "error" in result] == ["RuntimeError: CUDA"]
    assert len((tmp_path / "pids").read_text().splitlines()) == 2


def test_a_benchmark_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotstream.bench.supervise._GRACE", (0.0, 1.0))
    code, results, _ = run(tmp_path, baseline="hangs")
    assert code == 0 and len(results) == len(SUITE)
    assert "did not come to an end" in results[3]["error"]


def test_a_result_that_its_process_could_not_tell_of_is_kept_and_nothing_is_blamed(tmp_path: Path) -> None:
    code, results, _ = run(tmp_path, baseline="ends unreported")
    assert code == 0 and len(results) == len(SUITE)
    assert not any("error" in result for result in results)
    asked = [(result["benchmark"], result["variant"]) for result in results]
    assert len(set(asked)) == len(asked), "nothing is run twice"


def test_what_cannot_be_loaded_is_a_result_too_and_is_not_tried_for_ever(tmp_path: Path) -> None:
    code, results, shown = run(tmp_path, load="fails")
    assert code == 1
    assert [result["benchmark"] for result in results] == ["generate", "machine"]
    assert all("no such card" in result["error"] for result in results)
    assert "not run: " in shown


def test_after_the_limit_no_other_process_is_started(tmp_path: Path) -> None:
    """The process itself looks at the limit too; this one ends at its first benchmark."""
    _, results, _ = run(tmp_path, limit_s=0.0, generate="ends")
    assert len(results) == 1 and results[0]["benchmark"] == "generate"


PROGRAM = f"""
import json, sys
from pathlib import Path
from shotstream.bench.suite import SUITE, SuiteConfig
from shotstream.bench.supervise import supervise
worker = (sys.executable, "-c", {WORKER!r}, json.dumps({{"baseline": "hangs"}}))
say = lambda text: print(text, end="", flush=True)
options = {{"limit_s": 60.0, "command": "c", "say": say, "worker": worker}}
sys.exit(supervise(SuiteConfig(), SUITE, Path(sys.argv[1]), **options))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_loses_one_result_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    file, pids = tmp_path / "results.jsonl", tmp_path / "pids"
    wait_for(lambda: file.is_file() and file.read_text().count("\n") == 3)
    program.send_signal(number)
    shown, _ = program.communicate(timeout=30)
    results = [json.loads(line) for line in file.read_text().splitlines()]
    assert [result["fps"] for result in results[:3]] == [2.0] * 3
    if number == signal.SIGKILL:
        assert program.returncode == -signal.SIGKILL and len(results) == 3
    else:
        assert program.returncode == 128 + number
        assert results[3]["benchmark"] == "baseline" and number.name in results[3]["error"]
        assert "FAILED: stopped by" in shown.splitlines()[-1]
    pid = int(pids.read_text())
    wait_for(lambda: not is_alive(pid))


def wait_for(holds: Any) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("did not come about within 30 seconds")


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
