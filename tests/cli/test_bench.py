"""The benchmarks of `shotstream bench` from the command line."""

import json
from pathlib import Path

import pytest

from shotstream import cli
from shotstream.bench import roofline

TINY = ("--model", "wan-tiny", "--random", "--size", "32x48", "--device", "cpu")


def run(*arguments: str) -> int:
    """The exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("benchmark", "options"),
    [
        pytest.param(
            "denoise",
            ("--precision", "bfloat16", "--steps", "1", "--chunks", "2", "--repeats", "1"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "denoise", ("--chunks", "1", "--repeats", "1", "--memory", "lowest"), marks=pytest.mark.slow
        ),
        pytest.param("decode", ("--chunks", "2", "--repeats", "1"), marks=pytest.mark.slow),
        pytest.param("encode", ("--chunks", "1", "--repeats", "1"), marks=pytest.mark.slow),
        pytest.param("cut", ("--chunks", "1", "--repeats", "1", "--steps", "1"), marks=pytest.mark.slow),
        pytest.param("baseline", ("--chunks", "1", "--stories", "1", "--shots", "2"), marks=pytest.mark.slow),
        pytest.param(
            "overlap",
            ("--chunks", "1", "--stories", "1", "--shots", "1", "--scale", "1"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_benchmark_ends_in_one_json_line(
    benchmark: str,
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In bfloat16 a product of the CPU's ceiling takes seconds.
    monkeypatch.setitem(roofline._MATRIX_SIZE, "cpu", 256)  # pyright: ignore[reportPrivateUsage]
    assert run(benchmark, *TINY, *options) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["bench"] == benchmark
    assert document["inference_options"]["float8_cache"] == ("lowest" in options)
    assert document["weights_sha256"] == "random" and document["pixel_size"] == [32, 48]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["denoise", "decode", "encode", "cut"])
def test_who_waits_without_a_terminal_is_told_how_far_it_is(
    benchmark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(benchmark, *TINY, "--chunks", "1", "--repeats", "2") == 0
    told = [line.split(" s  ")[1] for line in capsys.readouterr().err.splitlines() if " s  " in line]
    assert told[0].startswith("loading") and any("2 of 2" in line for line in told)


@pytest.mark.slow
def test_all_writes_results_and_prints_little(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results"
    assert run("all", *TINY, "--tiny", "--limit", "0.001", "-o", str(output)) == 0
    (line,) = (output / "results.jsonl").read_text(encoding="ascii").splitlines()
    # The first benchmark is always run.
    result = json.loads(line)
    assert result["benchmark"] == "generate" and result["device"] == "cpu"
    assert result["fps"] > 0 and result["num_frames"] == 2 * 21 and len(result["interval_ms"]) == 3
    shown = capfd.readouterr().out
    assert len(shown.encode()) <= 8000 and "not run" in shown
    assert shown.splitlines()[-1].startswith("generate, nothing compiled")


def test_a_benchmark_that_there_is_not_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("all", "-o", str(tmp_path), "--only", "what") == 2
    assert "no benchmark 'what'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--size", "30x48"), "multiples of 8"),
        (("--size", "big"), "height x width"),
        (("--precision", "int4"), "precision is 'int4'"),
        (("--model", "nowhere", "--random"), "nowhere"),
        (("--device", "cuda:77"), "cuda:77"),
    ],
)
def test_what_cannot_be_measured_is_bad_input(
    options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("decode", *options) == 2
    assert complaint in capsys.readouterr().err
