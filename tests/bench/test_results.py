import json
from pathlib import Path

import pytest

from shotstream.bench.results import ResultFile, as_markdown, error_text, headline, summary, table
from shotstream.bench.suite import SUITE, SuiteConfig, select_benchmarks

RESULTS = [
    {"benchmark": "generate", "variant": "plain", "device": "card", "fps": 14.25, "cut_s": 0.61},
    {"benchmark": "generate", "variant": "2 steps", "device": "card", "fps": 40.0, "changes_films": True},
    {"benchmark": "generate", "variant": "chosen", "device": "card", "fps": 22.5, "peak_gb": 41.0},
    {"benchmark": "baseline", "device": "card", "ratio": 2.1, "first_frame_ratio": 9.3},
    {"benchmark": "decode", "variant": "plain", "device": "card", "error": "ValueError: " + "x" * 500},
]


def test_a_line_is_there_as_soon_as_it_is_added_and_holds_nothing_that_json_does_not_know(
    tmp_path: Path,
) -> None:
    file = ResultFile(tmp_path / "new" / "results.jsonl")
    file.begin()
    assert file.read() == []
    file.add({"benchmark": "a", "device": "cpu", "fps": 1 / 3, "spread": (1.0, float("inf")), "none": None})
    file.add({"benchmark": "b\n\u00e9", "device": "cpu", "many": {"x": float("nan")}})
    lines = file.path.read_text(encoding="ascii").splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == file.read()
    assert file.read() == [
        {"benchmark": "a", "device": "cpu", "fps": 0.33333, "spread": [1.0, None], "none": None},
        {"benchmark": "b\n\u00e9", "device": "cpu", "many": {"x": None}},
    ]
    file.begin()
    assert file.read() == []


def test_the_headline_is_the_fastest_film_of_all_bits_and_steps() -> None:
    first, ratio, fewer = headline(RESULTS)
    assert first.startswith("card, films as they are: fps 22.5")
    assert "2.1 x" in ratio and "9.3 x" in ratio
    assert "fewer bits or steps: fps 40" in fewer and "2 steps" in fewer
    assert headline(RESULTS[4:]) == []


def test_the_table_has_a_line_for_each_result_within_its_room() -> None:
    whole = table(RESULTS, max_bytes=4000).splitlines()
    assert len(whole) == 3 + 1 + len(RESULTS)
    assert all(len(line) <= 180 for line in whole) and "FAILED: ValueError: xxx" in whole[-1]
    assert len(table(RESULTS * 100, max_bytes=1000).encode()) <= 1000
    document = as_markdown(RESULTS, "the command")
    assert [json.loads(line) for line in document.splitlines() if line.startswith("{")] == RESULTS


def test_a_result_that_was_stopped_says_so_and_an_error_is_one_line() -> None:
    assert (
        summary({"benchmark": "generate", "fps": 3.0, "stopped_after_s": 61.0}) == "fps 3, stopped after 61 s"
    )
    assert error_text(ValueError("two\n  lines")) == "ValueError: two lines"
    assert error_text(RuntimeError()) == "RuntimeError"


def test_the_first_benchmark_is_a_film_and_no_two_are_alike() -> None:
    assert SUITE[0].name == "generate" and SUITE[0].start == "plain" and not SUITE[0].inference_options
    assert len({benchmark.key for benchmark in SUITE}) == len(SUITE)
    assert not any("," in benchmark.variant for benchmark in SUITE), "commas stand between names"


def test_benchmarks_can_be_picked_by_name_and_by_variant() -> None:
    assert select_benchmarks() == list(SUITE)
    picked = select_benchmarks("decode: whole chunk, encode")
    assert [benchmark.key for benchmark in picked] == [("encode", ""), ("decode", "whole chunk")]
    assert select_benchmarks(begin="shots")[0].name == "shots"
    for only, begin in (("what", None), (None, "decode: what")):
        with pytest.raises(ValueError, match="no benchmark"):
            select_benchmarks(only, begin)
    with pytest.raises(ValueError, match="at least 1"):
        SuiteConfig(num_shots=0)
