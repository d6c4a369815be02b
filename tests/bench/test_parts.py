import json

import pytest

from shotstream.bench.codec import bench_decode, bench_encode
from shotstream.bench.cut import bench_cut
from shotstream.bench.denoise import PartConfig, bench_denoise
from shotstream.bench.report import Report, Row, Spread
from shotstream.bench.shots import bench_shots
from shotstream.streaming.pipeline import StreamingPipeline
from tests.streaming.tiny import tiny_pipeline


@pytest.fixture
def pipeline() -> StreamingPipeline:
    return tiny_pipeline()


@pytest.mark.slow
def test_denoise_times_every_chunk_of_every_shot_and_leaves_the_warm_up_out(
    pipeline: StreamingPipeline,
) -> None:
    report = bench_denoise(pipeline, PartConfig(num_shots=3, num_chunks=4, num_steps=2))
    document = json.loads(report.json_line())
    assert [document[f"chunk_{i}_ms"]["count"] for i in range(4)] == [3] * 4
    assert document["commit_ms"]["count"] == 3 * 3
    assert document["num_steps"] == 2
    assert 0 < document["of_roofline"] < 1
    assert document["denoise_fps"] == pytest.approx(45 / document["shot_s"]["p50"], rel=1e-3)


def test_decode_and_encode_time_what_the_engine_does(pipeline: StreamingPipeline) -> None:
    config = PartConfig(num_shots=3, num_chunks=3)
    document = json.loads(bench_decode(pipeline, config).json_line())
    assert (document["first_chunk_ms"]["count"], document["chunk_ms"]["count"]) == (3, 6)
    report = bench_encode(pipeline, config)
    assert report.value("first_shot_ms") > report.value("first_shot_ms_per_frame") > 0


@pytest.mark.slow
def test_a_cut_from_a_busy_engine_waits_for_the_chunk_in_hand(pipeline: StreamingPipeline) -> None:
    asked: list[tuple[int, int]] = []
    make_session = pipeline.session

    def watched(global_caption: str, *, seed: int = 0, quiet: bool = False):
        session = make_session(global_caption, seed=seed, quiet=quiet)
        shot = session.shot

        def watched_shot(*args: object, **kwargs: object):
            for chunk in shot(*args, **kwargs):  # pyright: ignore
                asked.append((chunk.shot_index, chunk.chunk_index))
                yield chunk

        session.shot = watched_shot  # pyright: ignore
        return session

    pipeline.session = watched  # pyright: ignore
    document = json.loads(bench_cut(pipeline, PartConfig(num_shots=2)).json_line())
    assert document["idle_s"]["count"] == document["busy_s"]["count"] == 2
    # Idle, busy, idle ...: before every second cut the running shot makes one chunk more.
    assert asked == [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (5, 1), (6, 0)]


@pytest.mark.slow
def test_probed_shots_are_those_asked_for(pipeline: StreamingPipeline) -> None:
    told: list[int] = []
    report = bench_shots(pipeline, PartConfig(num_chunks=3), probed=(1, 4), on_shot=told.append)
    document = json.loads(report.json_line())
    assert told == [1, 2, 3, 4]
    assert document["shot_1_chunk_ms"]["count"] == document["shot_4_chunk_ms"]["count"] == 2
    window = pipeline.dit.config.window_chunks
    assert [document[f"long_shot_window_{part}_ms"]["count"] for part in (2, 3, 4)] == [window] * 3
    assert "shot_2_chunk_ms" not in document


def test_a_report_gives_median_and_95th_percentile() -> None:
    samples = tuple(float(value) for value in range(1, 102))
    report = Report(bench="x", facts={"a": 1}, rows=(Row("t_ms", "t, ms", Spread(samples)), Row("n", "n", 3)))
    assert json.loads(report.json_line()) == {
        "bench": "x",
        "a": 1,
        "t_ms": {"p50": 51, "p95": 96, "min": 1, "max": 101, "count": 101},
        "n": 3,
    }
    assert report.table() == [("t, ms", "51 / 96"), ("n", "3")]
    assert report.value("t_ms") == 51
    with pytest.raises(KeyError):
        report.value("u")


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PartConfig(num_shots=0)
