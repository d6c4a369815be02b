"""Threads are compared on an idle and on a busy machine, and everything is left as it was found."""

import pytest
import torch

from shotstream.bench.generate import BenchConfig
from shotstream.bench.threads import bench_threads
from shotstream.process import num_cores
from tests.streaming.tiny import tiny_pipeline


@pytest.mark.slow
def test_each_way_is_measured_idle_and_busy_and_nothing_is_left_changed() -> None:
    before = torch.get_num_threads()
    pipeline = tiny_pipeline()
    said: list[str] = []
    report = bench_threads(pipeline, BenchConfig(num_stories=1, num_shots=1, num_chunks=1), said.append)
    ways = ["1_thread_in_turn", "1_thread_chunks_ahead"]
    if num_cores() > 1:
        ways += [f"{num_cores()}_threads_in_turn", f"{num_cores()}_threads_chunks_ahead"]
    assert [row.key for row in report.rows] == [
        f"{state}_{way}_fps" for state in ("idle", "busy") for way in ways
    ]
    assert all(report.value(row.key) > 0 for row in report.rows)
    assert torch.get_num_threads() == before and pipeline.prefetcher is None
    assert said[-1] == "busy machine, 1 of 1 stories"


def test_a_gpus_threads_are_not_asked_for() -> None:
    pipeline = tiny_pipeline()
    pipeline.dit.to("meta")
    with pytest.raises(ValueError, match="threads are a CPU's"):
        bench_threads(pipeline, BenchConfig())
