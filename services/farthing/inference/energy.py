"""What computing has drawn, as the device's own meters say: RAPL for processors, NVML for NVIDIA's GPUs.

Where neither can be read (virtual machines, most containers, ARM boards) there is no meter, and the price book's power
draw stands in, labelled as an estimate.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

_POWERCAP, _PROC_STAT = Path("/sys/class/powercap"), Path("/proc/stat")
_NVML = "libnvidia-ml.so.1"
_SHARE_NS = 250_000_000  # /proc/stat counts hundredths of a second
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class EnergyMeter(Protocol):
    """Use it from one thread."""

    @property
    def source(self) -> str:
        """ "rapl" or "nvml", for the log."""

    def take_uj(self) -> int:
        """Microjoules that this process has drawn since the last call. 0 when the meter cannot be read any more."""


def open_meter(device: Literal["cpu", "cuda"]) -> EnergyMeter | None:
    """The meter of the device that this process computes on; None where it cannot be read."""
    return open_nvml() if device == "cuda" else open_rapl()


@dataclass(slots=True)
class _Zone:
    """One counter, and where it stood. It begins anew after `range_uj`."""

    descriptor: int
    range_uj: int
    last_uj: int

    def take_uj(self) -> int:
        now_uj = _read_number(self.descriptor)
        passed_uj, self.last_uj = now_uj - self.last_uj, now_uj
        return passed_uj if passed_uj >= 0 else passed_uj + self.range_uj


class RaplMeter:
    """Processor packages and the memory beside them, for the processor time that is this process's.

    A package's counter knows nothing of processes. What it counted goes to this one by its part of all processor time
    that was used on the machine, looked at every quarter of a second.
    """

    source = "rapl"

    def __init__(self, zones: list[_Zone], share: _ProcessorShare) -> None:
        self._zones, self._share, self._rest_uj = zones, share, 0.0

    def take_uj(self) -> int:
        """See EnergyMeter."""
        try:
            passed_uj = sum(zone.take_uj() for zone in self._zones)
        except (OSError, ValueError):
            return 0
        own_uj = passed_uj * self._share.read() + self._rest_uj
        whole_uj = int(own_uj)
        self._rest_uj = own_uj - whole_uj
        return whole_uj


class _ProcessorShare:
    """This process's part of the processor time that all processes use."""

    def __init__(
        self, stat: Path, now_ns: Callable[[], int], own_ns: Callable[[], int]
    ) -> None:
        self._stat, self._now_ns, self._own_ns = stat, now_ns, own_ns
        self._looked_ns, self._last_own_ns = now_ns(), own_ns()
        self._last_busy_ns = self._read_busy_ns()
        self._share = 1.0

    def read(self) -> float:
        """0 to 1, over the last quarter of a second; 1 before that."""
        now_ns = self._now_ns()
        if now_ns - self._looked_ns >= _SHARE_NS:
            own_ns, busy_ns = self._own_ns(), self._read_busy_ns()
            passed_ns = busy_ns - self._last_busy_ns
            if passed_ns > 0:
                self._share = min(1.0, (own_ns - self._last_own_ns) / passed_ns)
            self._looked_ns, self._last_own_ns, self._last_busy_ns = now_ns, own_ns, busy_ns
        return self._share

    def _read_busy_ns(self) -> int:
        with suppress(OSError, ValueError, IndexError):
            # user, nice, system, idle, iowait, irq, softirq: see proc_stat(5)
            ticks = [int(field) for field in self._stat.read_text().split("\n")[0].split()[1:8]]
            return (sum(ticks) - ticks[3] - ticks[4]) * 1_000_000_000 // _TICKS_PER_S
        return 0


def open_rapl(
    powercap: Path = _POWERCAP,
    stat: Path = _PROC_STAT,
    *,
    now_ns: Callable[[], int] = time.monotonic_ns,
    own_ns: Callable[[], int] = time.process_time_ns,
) -> RaplMeter | None:
    """Linux's powercap counters of this machine; they are root's to read unless it has given them to others."""
    zones = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            # Cores and GPU are within the package, "psys" around it.
            if not (folder / "name").read_text().startswith(("package", "dram")):
                continue
            range_uj = int((folder / "max_energy_range_uj").read_text())
            descriptor = os.open(folder / "energy_uj", os.O_RDONLY | os.O_CLOEXEC)
            zones.append(_Zone(descriptor, range_uj, _read_number(descriptor)))
    return RaplMeter(zones, _ProcessorShare(stat, now_ns, own_ns)) if zones else None


class NvmlMeter:
    """A whole GPU: one engine has it to itself."""

    source = "nvml"

    def __init__(self, library: Any, device: ctypes.c_void_p) -> None:
        self._library, self._device = library, device
        self._last_mj = self._read_mj()

    @property
    def can_read(self) -> bool:
        """Whether this GPU has the counter."""
        return self._last_mj > 0

    def take_uj(self) -> int:
        """See EnergyMeter. NVML counts millijoules since the driver was loaded."""
        now_mj = self._read_mj()
        passed_mj = now_mj - self._last_mj
        if now_mj == 0 or passed_mj < 0:
            return 0
        self._last_mj = now_mj
        return passed_mj * 1_000

    def _read_mj(self) -> int:
        value = ctypes.c_ulonglong()
        failed = self._library.nvmlDeviceGetTotalEnergyConsumption(
            self._device, ctypes.byref(value)
        )
        return 0 if failed else value.value


def open_nvml(library_name: str = _NVML) -> NvmlMeter | None:
    """The counter that GPUs have since Volta, of the first one that CUDA_VISIBLE_DEVICES leaves."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    with suppress(OSError, AttributeError):
        library, device = ctypes.CDLL(library_name), ctypes.c_void_p()
        if library.nvmlInit_v2():
            return None
        if visible.startswith("GPU-"):
            name = ctypes.c_char_p(visible.encode())
            failed = library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(device))
        else:
            index = ctypes.c_uint(int(visible) if visible.isdigit() else 0)
            failed = library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
        meter = None if failed else NvmlMeter(library, device)
        return meter if meter is not None and meter.can_read else None
    return None


def _read_number(descriptor: int) -> int:
    return int(os.pread(descriptor, 32, 0))
