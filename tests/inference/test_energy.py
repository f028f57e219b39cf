"""Energy meters on counters of the test's own: files as Linux lays them out, and a library compiled here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.toy_loop import ToyLoop

from farthing.inference.energy import RaplMeter, open_nvml, open_rapl

_RANGE_UJ = 1_000_000


class Machine:
    """Files like those of a machine with RAPL, and its clocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.now_ns = self.own_ns = 0
        for zone, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "psys"),
        ):
            self.write(f"{zone}/name", name)
            self.write(f"{zone}/max_energy_range_uj", str(_RANGE_UJ))
            self.count(zone, 0)
        self.use(busy_ticks=0)

    def write(self, path: str, text: str) -> None:
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / path).write_text(text + "\n")

    def count(self, zone: str, uj: int) -> None:
        self.write(f"{zone}/energy_uj", str(uj))

    def use(self, busy_ticks: int) -> None:
        self.write("stat", f"cpu  {busy_ticks} 0 0 777 55 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10")

    def open(self) -> RaplMeter | None:
        return open_rapl(
            self._folder,
            self._folder / "stat",
            now_ns=lambda: self.now_ns,
            own_ns=lambda: self.own_ns,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_and_their_memory_count_once(machine: Machine) -> None:
    meter = machine.open()
    assert meter is not None and meter.take_uj() == 0
    for zone, uj in (
        ("intel-rapl:0", 500),
        ("intel-rapl:0:0", 400),
        ("intel-rapl:0:1", 70),
        ("intel-rapl:1", 9_000),
    ):
        machine.count(zone, uj)
    assert meter.take_uj() == 570
    assert meter.take_uj() == 0


def test_a_counter_that_begins_anew_loses_nothing(machine: Machine) -> None:
    machine.count("intel-rapl:0", _RANGE_UJ - 100)
    meter = machine.open()
    machine.count("intel-rapl:0", 50)
    assert meter is not None and meter.take_uj() == 150


def test_other_processes_pay_for_their_part(machine: Machine) -> None:
    meter = machine.open()
    assert meter is not None
    machine.now_ns, machine.own_ns = 1_000_000_000, 250_000_000
    machine.use(busy_ticks=100)  # a second, a quarter of it this process's
    took = []
    for uj in (1_001, 2_002, 3_003, 4_004):
        machine.count("intel-rapl:0", uj)
        took.append(meter.take_uj())
    assert sum(took) == 1_001  # fractions are carried over


@pytest.mark.parametrize("gone", ["", "intel-rapl:0/energy_uj"])
def test_a_machine_without_readable_counters_has_no_meter(tmp_path: Path, gone: str) -> None:
    if gone:
        machine = Machine(tmp_path)
        for zone in ("intel-rapl:0", "intel-rapl:0:1"):
            (tmp_path / zone / "energy_uj").unlink()
        assert machine.open() is None
    else:
        assert open_rapl(tmp_path) is None


_NVML = """
#include <stdlib.h>
#include <string.h>
static unsigned long long mj = 5000;
int nvmlInit_v2(void) { return getenv("NVML_BROKEN") ? 9 : 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)0x7f0000000001; return index > 1;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = (void *)0x7f0000000001; return strcmp(uuid, "GPU-1234");
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *value) {
    if (device != (void *)0x7f0000000001) return 2;
    *value = mj; mj += 3; return 0;
}
"""


def test_a_gpus_counter_is_read_through_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvml.c").write_text(_NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    meter = open_nvml(str(library))
    assert meter is not None
    assert [meter.take_uj() for _ in range(3)] == [3_000, 3_000, 3_000]
    for visible, found in (
        ("1", True),
        ("5", False),
        ("GPU-1234,GPU-5", True),
        ("GPU-9", False),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert (open_nvml(str(library)) is not None) is found
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("NVML_BROKEN", "1")
    assert open_nvml(str(library)) is None
    assert open_nvml(str(tmp_path / "absent.so")) is None


class CountingMeter:
    """Implements EnergyMeter: 7 µJ more with each look."""

    source = "test"

    def __init__(self) -> None:
        self.given_uj = 0

    def take_uj(self) -> int:
        self.given_uj += 7
        return 7


def test_what_steps_draw_is_shared_out_among_their_requests() -> None:
    meter = CountingMeter()
    lab = ToyLoop(energy=meter)
    for number in range(3):
        lab.submit(f"question {number}", 20)
        lab.loop.step()
    lab.run()
    shares = [heard.done.usage.energy_uj for heard in lab.heard.values()]
    assert all(shares)
    assert sum(shares) == lab.loop.totals.energy_uj == 7 * lab.loop.totals.step_count
    assert meter.given_uj > sum(shares)  # what was drawn before the first came is nobody's
