"""Watts come from the device's own counters; where it has none, there is no number."""

import os
from pathlib import Path

import pytest
import torch

from shotstream.bench.power import PowerMeter, _numbers, _watch_gpu


def processor(directory: Path, name: str, energy_uj: int) -> Path:
    counter = directory / name / "energy_uj"
    counter.parent.mkdir()
    counter.write_text(f"{energy_uj}\n")
    (counter.parent / "max_energy_range_uj").write_text("999\n")
    return counter


def test_a_processors_energy_is_read_before_and_after_even_when_its_counter_wraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 and 300 microjoules in two seconds; a part of a processor is in the whole and not counted twice."""
    clock = iter((10.0, 12.0))
    monkeypatch.setattr("shotstream.bench.power.time.perf_counter", lambda: next(clock, 12.0))
    whole = [processor(tmp_path, "intel-rapl:0", 100), processor(tmp_path, "intel-rapl:1", 900)]
    part = processor(tmp_path, "intel-rapl:0:0", 0)
    with PowerMeter(torch.device("cpu"), powercap=tmp_path) as meter:
        whole[0].write_text("600\n")
        whole[1].write_text("200\n")
        part.write_text("400\n")
    rows = {row.key: row.value for row in meter.rows(num_frames=4, wall_s=2.0)}
    assert rows.keys() == {"power_cpu_w", "energy_cpu_j_per_frame"}
    assert rows["power_cpu_w"] == pytest.approx(400e-6)
    assert rows["energy_cpu_j_per_frame"] == pytest.approx(200e-6)


def test_a_machine_that_tells_nothing_gives_no_number(tmp_path: Path) -> None:
    processor(tmp_path, "intel-rapl:0", 0).write_text("what\n")
    with PowerMeter(torch.device("cpu"), powercap=tmp_path) as meter:
        pass
    assert meter.rows(1, 1.0) == ()


def test_a_gpus_watts_are_what_the_drivers_program_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _numbers("310.5\n[N/A]\n\n289.5\n") == [310.5, 289.5]
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "$1"; echo 310.5; echo "[N/A]"; exec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    watching = _watch_gpu("1234")
    assert watching is not None and watching.stdout is not None
    assert [watching.stdout.readline().strip() for _ in range(2)] == ["--id=GPU-1234", "310.5"]
    watching.terminate()
    assert _numbers(watching.communicate()[0]) == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert _watch_gpu("1234") is None
