import json
from dataclasses import replace

import numpy as np
import pytest

from shotstream.bench.budget import Budget
from shotstream.bench.generate import (
    PARTS,
    BenchConfig,
    FilmRun,
    bench_generate,
    bench_story,
    smooth_pictures,
)
from shotstream.bench.overlap import bench_overlap
from shotstream.bench.roofline import shot_cost
from shotstream.geometry import PixelSize
from tests.streaming.tiny import tiny_pipeline


@pytest.mark.slow
def test_every_frame_and_every_chunk_is_counted_once_and_the_warm_up_is_not() -> None:
    told: list[int] = []
    config = BenchConfig(num_stories=2, num_shots=3, num_chunks=2)
    pipeline = tiny_pipeline()
    report = bench_generate(pipeline, config, told.append)
    document = json.loads(report.json_line())
    assert document["num_frames"] == 2 * 3 * 21
    assert [document[key]["count"] for key in ("first_frame_s", "cut_s", "interval_s")] == [2, 4, 10]
    assert told == [1, 2]
    parts_ms = [document[f"{part}_ms_per_frame"] for part in PARTS]
    assert all(part_ms > 0 for part_ms in parts_ms)
    assert document["of_roofline"] > 0
    passes_s = sum(document[f"{part}_ms_per_frame"] for part in ("context", "denoise", "commit")) * 0.126
    shot = shot_cost(pipeline.dit.config, pipeline.geometry.token_grid(pipeline.latent_size), 2, 4, 4)
    assert document["reached_tflops"] == pytest.approx(6 * shot.flops / passes_s / 1e12, rel=1e-3)
    # Both numbers are rounded for people.
    assert sum(parts_ms) * document["num_frames"] <= 1e3 * document["wall_s"] * 1.001


@pytest.mark.slow
def test_the_last_line_is_json_with_all_that_was_measured() -> None:
    report = bench_generate(tiny_pipeline(), BenchConfig(num_stories=1, num_shots=1, num_chunks=1))
    document = json.loads(report.json_line())
    assert document["num_frames"] == 9
    assert document["interval_s"]["count"] == 0
    assert document["model"] == "tiny" and document["commit"] and document["cpu"]
    assert document["real_time_factor"] == pytest.approx(document["fps"] / 12, rel=1e-3)
    assert len(report.table()) == len(report.rows) >= len(PARTS) + 5
    with pytest.raises(ValueError, match="at least 1"):
        BenchConfig(num_stories=0)


@pytest.mark.slow
def test_every_way_to_overlap_films_the_same_stories() -> None:
    config = BenchConfig(num_stories=2, num_shots=2, num_chunks=2)
    pipeline = tiny_pipeline()
    document = json.loads(bench_overlap(pipeline, config).json_line())
    assert (
        document["ratio"]["count"] == document["ahead_ratio"]["count"] == document["ahead_fps"]["count"] == 2
    )
    assert all(document[f"{way}_cut_s"]["count"] == 2 for way in ("between", "beside", "ahead"))
    assert pipeline.prefetcher is None
    beside = json.loads(bench_generate(pipeline, replace(config, overlap=True)).json_line())
    assert beside["num_frames"] == 2 * 2 * 21 and beside["config"]["overlap"]
    assert beside["explained"] <= 1.001


def test_a_film_whose_time_is_over_ends_with_the_chunk_in_hand() -> None:
    config = BenchConfig(num_chunks=2, with_h264=False, pictures="smooth")
    run = FilmRun(tiny_pipeline(), config, Budget(0.0))
    run.film(bench_story(2, 0))
    assert run.num_frames == 9 and run.cuts_s == () and len(run.first_frames_s) == 1


def test_smooth_pictures_move_and_change_little_from_pixel_to_pixel() -> None:
    pictures = smooth_pictures(3, PixelSize(32, 48), first_frame=1)
    assert (pictures[0] != pictures[1]).any() and (
        pictures[1] == smooth_pictures(1, PixelSize(32, 48), 2)
    ).all()
    steps = [abs(np.diff(pictures.astype(int), axis=axis)).max() for axis in (0, 1, 2)]
    assert 0 < max(steps) < 16
