"""What training takes: the recipes' own stages on drawn data, and a line for every benchmark."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream.bench import training
from shotstream.bench.results import ResultFile
from shotstream.bench.training import Setting, count_flops, measure_all, measure_intra_shot, measure_teacher

TINY = Setting(device=torch.device("cpu"), is_tiny=True)


@pytest.fixture(autouse=True)
def counted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without another process, whose start takes longer than all the rest."""
    monkeypatch.setattr(training, "count_flops", lambda _name, _is_tiny: {"step": 1e9})
    monkeypatch.setattr(training, "ProcessPoolExecutor", _Here)


class _Here:
    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_a_teachers_step_is_timed_and_profiled(causal: bool) -> None:
    found = measure_teacher(TINY, causal=causal)
    assert found["step_s"] > 0 and found["peak_gb"] > 0
    assert len(found["dearest"]) == 3 and 0 < sum(found["dearest"].values()) <= 1


@pytest.mark.slow
def test_a_step_of_matching_is_the_sum_of_its_updates() -> None:
    found = measure_intra_shot(TINY)
    assert found["fake_updates"] == 5
    updates_s = 5 * found["fake_update_s"] + found["student_update_s"]
    assert found["step_s"] == pytest.approx(found["draw_s"] + updates_s)


@pytest.mark.slow
def test_a_benchmark_that_fails_is_a_result_and_the_next_one_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_: Setting) -> dict[str, Any]:
        raise RuntimeError("the card\nfell out")

    benchmarks = {"wan_teacher": fails, "theatre_teacher": lambda _: {"step_s": 2.0}}
    monkeypatch.setattr(training, "MEASUREMENTS", benchmarks)
    file = ResultFile(tmp_path / "results.jsonl")
    measure_all(TINY, file, limit_s=60.0, began=time.perf_counter())
    first, second = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert first["error"] == "RuntimeError: the card fell out" and first["device"] == "cpu"
    assert second["step_s"] == 2.0 and "error" not in second
    measure_all(TINY, file, limit_s=0.0, began=time.perf_counter() - 1)
    assert [result.get("error", "")[:9] for result in file.read()[2:]] == ["not run: "] * 2


@pytest.mark.slow
def test_what_is_counted_beside_is_what_the_parts_cost() -> None:
    counted = count_flops("wan_inter_shot", True)
    assert counted["step"] == 5 * counted["fake"] + counted["student"]
    assert 0 < count_flops("wan_teacher", True)["step"] < counted["fake"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", training.MEASUREMENTS)
def test_every_benchmark_runs_on_a_gpu(name: str) -> None:
    """Steps of the teacher, of both kinds of distribution matching, and of the theatre's teacher."""
    found = training.MEASUREMENTS[name](Setting(device=torch.device("cuda"), is_tiny=True))
    assert found["peak_gb"] > 0 and found["busy"] > 0
