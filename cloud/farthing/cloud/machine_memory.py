"""How much memory a device has free, by the system's own word; nothing is loaded to find out."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from farthing.cloud.runtime import Device


def available_bytes(device: Device) -> int:
    """Free memory of the machine, within its container's limit, or of CUDA device 0; 0 when it cannot be told."""
    return _cuda_free_bytes() if device == "cuda" else _host_free_bytes()


def _host_free_bytes() -> int:
    free = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free or limit, limit - int((group / "memory.current").read_text()))
    return max(0, free)


def _cuda_free_bytes() -> int:
    """Asks the driver in the context that a session has made current."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else free.value
