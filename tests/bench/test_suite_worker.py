"""One benchmark in the worker: its values are in the result, whether it finished or not."""

from collections.abc import Iterator
from typing import Any

import pytest

from shotstream.bench import measurements
from shotstream.bench.suite import SUITE, Benchmark
from shotstream.bench.suite_worker import _measure


class Models:
    """As much of a model as there is to tell of it."""

    device_name = "card"
    started_s = 0.0

    def start_measuring(self) -> None:
        pass

    def peaks(self) -> dict[str, float]:
        return {"peak_gb": 1.5}


def measured(
    benchmark: Benchmark, values: Iterator[dict[str, Any]], patch: pytest.MonkeyPatch
) -> dict[str, Any]:
    patch.setattr(measurements, "measure", lambda *_: values)
    return _measure(Models(), benchmark)


def test_what_was_known_before_an_error_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def values() -> Iterator[dict[str, Any]]:
        yield {"none_fps": 20.0}
        raise ModuleNotFoundError("No module\nnamed 'av'")

    result = measured(Benchmark(name="h264"), values(), monkeypatch)
    assert result["none_fps"] == 20.0 and result["error"] == "ModuleNotFoundError: No module named 'av'"
    assert result["device"] == "card" and result["peak_gb"] == 1.5 and "variant" not in result


def test_a_benchmark_whose_time_is_over_is_stopped_and_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def values() -> Iterator[dict[str, Any]]:
        yield {"fps": 20.0}
        yield pytest.fail("it was continued")

    result = measured(Benchmark(name="generate", variant="x", budget_s=0), values(), monkeypatch)
    assert result["fps"] == 20.0 and result["stopped_after_s"] > 0 and "error" not in result
    assert (result["benchmark"], result["variant"]) == ("generate", "x")


def test_there_is_a_result_for_every_benchmark() -> None:
    assert {benchmark.name for benchmark in SUITE} == measurements._MEASUREMENTS.keys()
