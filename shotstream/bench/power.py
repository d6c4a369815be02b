"""Power consumption of devices during a measurement, as the devices report it.

An NVIDIA GPU is read through `nvidia-smi`, five times a second, in a separate process, so that the
measurement does not wait. This was tested with a substitute of that name, never with a GPU. A processor's
energy counter (Linux's powercap) is read before and after. Neither includes the rest of the machine. Without
such counters, as on most virtual machines, there are no values.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import torch

from shotstream.bench.report import Row, gpus_of

POWERCAP: Final = Path("/sys/class/powercap")
_GPU_INTERVAL_MS: Final = 200


@dataclass(frozen=True, slots=True)
class _Counter:
    """A processor's energy counter in microjoules; it restarts at zero after `wrap`."""

    path: Path
    wrap: int

    def read(self) -> int:
        return int(self.path.read_text(encoding="utf-8"))


class PowerMeter:
    """Measures the power during its `with` block; read `watts` afterwards."""

    def __init__(self, *devices: torch.device, powercap: Path = POWERCAP) -> None:
        self.watts: dict[str, float] = {}
        """Mean watts of "cpu" and of the GPUs among the devices that report them; see `gpus_of`."""
        self._counters = _counters(powercap)
        self._gpus = gpus_of(*devices)
        self._watching: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "PowerMeter":
        self._start_s, self._start = time.perf_counter(), [counter.read() for counter in self._counters]
        for name, device in self._gpus.items():
            watching = _watch_gpu(str(torch.cuda.get_device_properties(device).uuid))
            if watching is not None:
                self._watching[name] = watching
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        elapsed_s = time.perf_counter() - self._start_s
        for name, watching in self._watching.items():
            watching.terminate()
            output, _ = watching.communicate()
            if samples := _numbers(output):
                self.watts[name] = sum(samples) / len(samples)
        if self._counters:
            used = [
                (counter.read() - before) % counter.wrap
                for counter, before in zip(self._counters, self._start, strict=True)
            ]
            self.watts["cpu"] = sum(used) / 1e6 / elapsed_s

    def rows(self, num_frames: int, wall_s: float) -> tuple[Row, ...]:
        """Returns watts, and joules per frame, as rows; none for a device without values."""
        return tuple(
            row
            for kind, watts in self.watts.items()
            for row in (
                Row(f"power_{kind}_w", f"power, {kind}, W", watts),
                Row(
                    f"energy_{kind}_j_per_frame", f"energy, {kind}, J per frame", watts * wall_s / num_frames
                ),
            )
        )


def _counters(powercap: Path) -> Sequence[_Counter]:
    """Returns the readable counters of whole processors, which include those of their parts."""
    found: list[_Counter] = []
    for path in sorted(powercap.glob("intel-rapl:*/energy_uj")):
        if path.parent.name.count(":") != 1:
            continue
        try:
            wrap = int((path.parent / "max_energy_range_uj").read_text(encoding="utf-8"))
            counter = _Counter(path, wrap + 1)
            counter.read()
        except (OSError, ValueError):  # since 2020 only root can read it on Linux
            continue
        found.append(counter)
    return found


def _watch_gpu(uuid: str) -> subprocess.Popen[str] | None:
    """Returns a process that prints a GPU's watts; None without such a program."""
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    command = ["nvidia-smi", f"--id={name}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    try:
        return subprocess.Popen(
            [*command, f"--loop-ms={_GPU_INTERVAL_MS}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None


def _numbers(text: str) -> list[float]:
    """Returns the numbers among lines; "[N/A]" is skipped."""
    found: list[float] = []
    for line in text.splitlines():
        try:
            found.append(float(line))
        except ValueError:
            continue
    return found
