"""Build the llama.cpp engine's wheel once, for this processor or to be shipped, and keep it by what it is for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import environments
from steps import ROOT, fail, run_logged, shared_cache

LOCAL_CACHE = ROOT / ".cache"
BUILD_BYTES_PER_JOB = 1_500_000_000  # the largest translation units peak near 1 GB under GCC 12
CMAKE_FLAGS = "-DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF"
# GCC 12 drops the stores to the AMX tile configuration, so every quantized model would crash
# on a processor that has AMX: ggml-org/llama.cpp pull request 26954 describes the fault.
X86_COMPILER_FLAGS = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
BUILDER_WISHES = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_ARGS")
# What a wheel that is shipped expects of a processor: on x86 anything since Haswell (2013) and the first
# Zen (2017), on ARM the Cortex-A76 of a Raspberry Pi 5, a Jetson Orin, Graviton 2 and what came after. Every x86
# feature is named, because their defaults depend on more than GGML_NATIVE.
PORTABLE_BASELINES = {
    "x86_64": (
        "x86-64-v3",
        "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON "
        "-DGGML_FMA=ON -DGGML_F16C=ON",
    ),
    "aarch64": (
        "armv8.2-a+dotprod+fp16",
        "-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16",
    ),
}


def read_cpu_flags() -> str:
    """The kernel's list of processor features; the build uses all of them, so they name the wheel."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return platform.processor()


def choose_compiler_flags(machine: str) -> str:
    """Flags for the C and C++ compilers on `machine`; only x86 knows the AMX ones."""
    return X86_COMPILER_FLAGS if machine in {"x86_64", "AMD64"} else ""


def choose_cmake_flags(machine: str, *, portable: bool) -> str:
    """CMake's settings; without `portable` llama.cpp uses whatever this processor has."""
    if not portable:
        return CMAKE_FLAGS
    return f"{CMAKE_FLAGS} {find_baseline(machine)[1]}"


def find_baseline(machine: str) -> tuple[str, str]:
    """Name and CMake settings of the processors that a shipped wheel is for."""
    if machine not in PORTABLE_BASELINES:
        fail(
            f"there is no portable build for {machine}",
            f"build on one of {', '.join(PORTABLE_BASELINES)}, or let make setup compile for this processor",
        )
    return PORTABLE_BASELINES[machine]


def read_engine_version() -> str:
    """The engine version that the lock pins."""
    for line in (environments.LOCKS / "engine.txt").read_text("utf-8").splitlines():
        if line.startswith("llama-cpp-python=="):
            return line.split("==")[1].split()[0]
    fail("locks/engine.txt pins no llama-cpp-python", "run make lock")


def make_key(
    *, version: str, python_tag: str, machine: str, cpu_flags: str, libc: str, build_flags: str
) -> str:
    """Folder name of a wheel: equal for two machines only if one's build runs on the other."""
    digest = hashlib.sha256("\n".join((cpu_flags, libc, build_flags)).encode()).hexdigest()
    return f"llama-{version}-{python_tag}-{machine}-{digest[:16]}"


def describe_machine(machine: str = "", *, portable: bool = False) -> str:
    """The key for this interpreter on this machine; of the processor a portable wheel knows its baseline only.

    A portable wheel may be for another kind of `machine`.
    """
    machine = machine or platform.machine()
    cpu_flags = find_baseline(machine)[0] if portable else read_cpu_flags()
    return make_key(
        version=read_engine_version(),
        python_tag=f"cp{sys.version_info[0]}{sys.version_info[1]}",
        machine=machine,
        cpu_flags=cpu_flags,
        libc=" ".join(platform.libc_ver()),
        build_flags=" ".join(
            (
                choose_compiler_flags(machine),
                choose_cmake_flags(machine, portable=portable),
                *read_builder_wishes(),
            )
        ),
    )


def read_builder_wishes() -> list[str]:
    """What the environment says of the compiler and its flags: builds that differ in it are not each other's."""
    return [f"{name}={os.environ[name]}" for name in BUILDER_WISHES if os.environ.get(name)]


def find_cached(key: str) -> Path | None:
    """A finished wheel from the checkout's cache, else from the shared one."""
    for base in (LOCAL_CACHE, shared_cache()):
        wheels = sorted((base / "wheels" / key).glob("llama_cpp_python-*.whl"))
        if wheels:
            return wheels[0]
    return None


def store(wheel: Path, key: str) -> Path:
    """Keep a wheel in both caches; a cache that cannot be written is only a slower next time."""
    kept = wheel
    for base in (shared_cache(), LOCAL_CACHE):
        folder = base / "wheels" / key
        target = folder / wheel.name
        if target == wheel:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{wheel.name}.{os.getpid()}"
            shutil.copyfile(wheel, partial)
            partial.replace(target)  # so that no reader ever sees half a wheel
        except OSError as error:
            print(f"    not cached in {folder}: {error.strerror}")
        else:
            kept = target
    return kept


def count_jobs() -> int:
    """Parallel compilations that this machine's processors and memory allow, at least one."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory_bytes // BUILD_BYTES_PER_JOB))


def choose_cross_build(machine: str) -> dict[str, str]:
    """Environment and CMake settings with which this machine compiles for another; nothing for its own kind.

    `_PYTHON_HOST_PLATFORM` is what the interpreter's sysconfig, and so the wheel's tag, calls the platform.
    """
    if machine == platform.machine():
        return {}
    return {
        "CC": f"{machine}-linux-gnu-gcc",
        "CXX": f"{machine}-linux-gnu-g++",
        "CMAKE_ARGS": f"-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR={machine}",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }


def build(key: str, machine: str = "", *, portable: bool = False) -> Path:
    """Compile the wheel from its hashed source archive and cache it; minutes on two cores."""
    machine = machine or platform.machine()
    cross = choose_cross_build(machine)
    python = environments.ensure(ROOT / ".venvs" / "engine-build")
    environments.install_locked(python, "engine-build")
    flags = choose_compiler_flags(machine)
    cmake_flags = choose_cmake_flags(machine, portable=portable)
    tools = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        run_logged(
            [
                *(python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"),
                *("--require-hashes", "--no-build-isolation", "--no-binary", ":all:"),
                *("--wheel-dir", folder, "-r", environments.LOCKS / "engine.txt"),
            ],
            "see the compiler's message above; g++ 12 or newer, 3 GB of memory and 2 GB of "
            "disk are enough. The whole output is in build/setup.log",
            env={
                **cross,
                "PATH": tools,
                "CFLAGS": f"{os.environ.get('CFLAGS', '')} {flags}".strip(),
                "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} {flags}".strip(),
                "CMAKE_ARGS": " ".join(
                    (
                        cmake_flags,
                        cross.get("CMAKE_ARGS", ""),
                        os.environ.get("CMAKE_ARGS", ""),
                    )
                ).strip(),
                "CMAKE_BUILD_PARALLEL_LEVEL": str(count_jobs()),
            },
        )
        return store(next(Path(folder).glob("*.whl")), key)


def install(python: Path, wheel: Path) -> None:
    """Put the wheel into the environment in place of any other build of the engine."""
    run_logged(
        [
            *(python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"),
            *("--force-reinstall", wheel),
        ],
        f"delete {wheel.parent} and repeat: the cached wheel may be damaged",
    )


def unpack(wheel: Path, folder: Path) -> Path:
    """The wheel's contents as a folder to import from, without installing anything."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder
