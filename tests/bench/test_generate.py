import json

import pytest

from shotstream.bench.generate import PARTS, BenchConfig, bench_generate
from shotstream.streaming.pipeline import StreamingPipeline
from tests.streaming.tiny import tiny_engine


def test_every_frame_and_every_chunk_is_counted_once_and_the_warm_up_is_not() -> None:
    told: list[int] = []
    config = BenchConfig(num_stories=2, num_shots=3, num_chunks=2)
    report = bench_generate(StreamingPipeline(tiny_engine()), config, told.append)
    assert report.num_frames == 2 * 3 * 21
    assert (len(report.first_frame_s), len(report.cut_s), len(report.interval_s)) == (2, 4, 10)
    assert told == [1, 2]
    assert set(report.parts_s) == set(PARTS)
    assert all(seconds > 0 for seconds in report.parts_s.values())
    assert sum(report.parts_s.values()) <= report.wall_s


def test_the_last_line_is_json_with_all_that_was_measured() -> None:
    report = bench_generate(
        StreamingPipeline(tiny_engine()), BenchConfig(num_stories=1, num_shots=1, num_chunks=1)
    )
    document = json.loads(report.json_line())
    assert document["num_frames"] == 9
    assert document["interval_s"]["count"] == 0
    assert document["model"] == "tiny" and document["commit"]
    assert len(report.rows()) >= len(PARTS) + 5
    with pytest.raises(ValueError, match="at least 1"):
        BenchConfig(num_stories=0)
