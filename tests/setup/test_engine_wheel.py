"""The engine's wheel is found again only where it runs, and never seen half written."""

from __future__ import annotations

import platform
from pathlib import Path

import engine_wheel
import pytest

MACHINE = {
    "version": "0.3.36",
    "python_tag": "cp311",
    "machine": "x86_64",
    "cpu_flags": "avx avx2 fma",
    "libc": "glibc 2.36",
    "build_flags": "-DMTMD_BUILD=OFF",
}
WHEEL_NAME = "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty cache in the checkout and an empty shared one."""
    monkeypatch.setattr(engine_wheel, "LOCAL_CACHE", tmp_path / "checkout")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "checkout", tmp_path / "home" / "farthing"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", "0.3.37"),
        ("python_tag", "cp312"),
        ("machine", "aarch64"),
        ("cpu_flags", "avx avx2 avx512f fma"),
        ("libc", "glibc 2.41"),
        ("build_flags", "-DGGML_NATIVE=OFF"),
    ],
)
def test_every_part_of_the_key_names_another_wheel(name: str, value: str) -> None:
    assert engine_wheel.make_key(**MACHINE) != engine_wheel.make_key(**{**MACHINE, name: value})


def test_the_key_of_this_machine_is_the_same_each_time() -> None:
    assert engine_wheel.describe_machine() == engine_wheel.describe_machine()


def test_another_compiler_or_its_flags_make_another_wheel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    keys = {engine_wheel.describe_machine()}
    for name, value in (("CXX", "clang++"), ("CXX", "g++-14"), ("CFLAGS", "-O2"), ("CC", "")):
        monkeypatch.setenv(name, value)
        keys.add(engine_wheel.describe_machine())
        monkeypatch.delenv(name)
    assert len(keys) == 4


def test_a_wheel_to_ship_is_the_same_for_all_processors_of_a_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = set()
    for flags in ("avx avx2 fma", "avx avx2 avx512f fma"):
        monkeypatch.setattr(engine_wheel, "read_cpu_flags", lambda flags=flags: flags)
        keys.add(engine_wheel.describe_machine(portable=True))
        keys.add(engine_wheel.describe_machine())
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("machine", "flag"),
    [("x86_64", "-DGGML_AVX2=ON"), ("aarch64", "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16")],
)
def test_a_wheel_to_ship_does_not_look_at_this_processor(machine: str, flag: str) -> None:
    flags = engine_wheel.choose_cmake_flags(machine, portable=True).split()
    assert "-DGGML_NATIVE=OFF" in flags
    assert flag in flags
    assert flag not in engine_wheel.choose_cmake_flags(machine, portable=False)


def test_a_machine_without_a_baseline_is_told_what_to_do() -> None:
    with pytest.raises(SystemExit, match="riscv64"):
        engine_wheel.choose_cmake_flags("riscv64", portable=True)


def test_a_wheel_for_another_kind_of_machine_is_another_and_cross_compiled() -> None:
    keys = {
        engine_wheel.describe_machine(machine, portable=True)
        for machine in ("", "x86_64", "aarch64")
    }
    assert len(keys) == 2  # one of them is this machine's own
    own, foreign = sorted(("x86_64", "aarch64"), key=lambda one: one != platform.machine())
    assert engine_wheel.choose_cross_build(own) == {}
    cross = engine_wheel.choose_cross_build(foreign)
    assert cross["CXX"] == f"{foreign}-linux-gnu-g++"
    assert cross["_PYTHON_HOST_PLATFORM"] == f"linux-{foreign}"  # the wheel's tag
    assert f"-DCMAKE_SYSTEM_PROCESSOR={foreign}" in cross["CMAKE_ARGS"].split()


def test_only_x86_compilers_get_the_amx_flags() -> None:
    assert "-mno-amx-tile" in engine_wheel.choose_compiler_flags("x86_64")
    assert engine_wheel.choose_compiler_flags("aarch64") == ""


def test_a_stored_wheel_is_found_from_another_checkout_too(
    caches: tuple[Path, Path], tmp_path: Path
) -> None:
    local, shared = caches
    wheel = tmp_path / WHEEL_NAME
    wheel.write_bytes(b"wheel")
    kept = engine_wheel.store(wheel, "key")
    assert kept == local / "wheels" / "key" / WHEEL_NAME
    kept.unlink()
    assert engine_wheel.find_cached("key") == shared / "wheels" / "key" / WHEEL_NAME
    assert engine_wheel.find_cached("another key") is None


def test_an_unwritable_cache_does_not_stop_the_set_up(
    caches: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, shared = caches
    shared.parent.mkdir()
    shared.write_text("a file where a folder should be")
    wheel = tmp_path / WHEEL_NAME
    wheel.write_bytes(b"wheel")
    assert engine_wheel.store(wheel, "key") == local / "wheels" / "key" / WHEEL_NAME
    assert "not cached" in capsys.readouterr().out


def test_a_wheel_still_being_written_is_not_found(caches: tuple[Path, Path]) -> None:
    folder = caches[0] / "wheels" / "key"
    folder.mkdir(parents=True)
    (folder / f".{WHEEL_NAME}.42").write_bytes(b"half")
    assert engine_wheel.find_cached("key") is None
