"""Energy by a machine's own counters: of processor packages (RAPL, Linux' powercap) and of a GPU (NVML).

They count everything that runs there, not one process; where none may be read there is no number.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGE = re.compile(r"intel-rapl:[0-9]+")  # AMD's packages have the same name; parts of a package have another colon
MOST_WATTS = 600.0  # of one package: a counter that may have begun anew more than once between two looks says nothing
NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True, kw_only=True)
class Counter:
    """What it counts, how it is read in joules, and the joules at which it begins anew (None: never)."""

    what: str
    read: Callable[[], float]
    range: float | None = None


class Energy:
    """Joules between its beginning and the newest look; None where nothing counts them, or a counter was lost."""

    def __init__(self, counters: list[Counter], clock: Callable[[], float] = time.monotonic) -> None:
        self._counters, self._clock = counters, clock
        self.joules: float | None = 0.0 if counters else None
        self._at, self._last = clock(), self._read()

    @property
    def what(self) -> str:
        """What is counted: `processor packages`, `GPU`, or both."""
        return " and ".join(dict.fromkeys(counter.what for counter in self._counters))

    def look(self) -> None:
        """Add what was used since the last look."""
        if self.joules is None:
            return
        now, values = self._clock(), self._read()
        if self.joules is None:
            return
        for counter, before, value in zip(self._counters, self._last, values, strict=True):
            if counter.range is None and value < before:
                return self.forget()
            if counter.range is not None and (now - self._at) * MOST_WATTS >= counter.range:
                return self.forget()
            self.joules += value - before + (counter.range or 0.0) * (value < before)
        self._at, self._last = now, values

    def forget(self) -> None:
        """Give no number, such as for a run that went on from a checkpoint."""
        self.joules = None

    def _read(self) -> list[float]:
        try:
            return [counter.read() for counter in self._counters]
        except (OSError, ValueError):
            self.forget()
            return []


def counters(gpu: str = "") -> list[Counter]:
    """The counters that may be read here; `gpu` is the UUID of the run's GPU (`GPU-…`), empty for none."""
    return packages(POWERCAP) + ([found] if gpu and (found := _gpu(gpu)) else [])


def packages(folder: Path) -> list[Counter]:
    """RAPL's processor packages; none where one of them may not be read, as its sum would miss something."""
    found = []
    try:
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if PACKAGE.fullmatch(place.name):
                most = _micro(place / "max_energy_range_uj")
                _micro(place / "energy_uj")
                read = _reader(place / "energy_uj")
                found.append(Counter(what="processor packages", read=read, range=most))
    except (OSError, ValueError):  # often root alone may read them
        return []
    return found


def _reader(path: Path) -> Callable[[], float]:
    return lambda: _micro(path)


def _micro(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _gpu(uuid: str) -> Counter | None:
    """The counter of a GPU since its driver was loaded; None where the library or the GPU has none."""
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return None
    device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)):
        return None

    def read() -> float:
        if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)):
            raise OSError("the GPU's energy cannot be read")
        return millijoules.value / 1e3

    try:
        read()
    except OSError:
        return None
    return Counter(what="GPU", read=read)
