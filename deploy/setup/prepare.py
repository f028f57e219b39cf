"""Bring this checkout's environments and tools up to date; does nothing, quickly, when they are.

Usage: prepare.py suite | engine-wheel [MACHINE] | protos | buf
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - said before the imports below need it
    sys.exit("farthing needs Python 3.11 or newer: repeat with make PYTHON=python3.11 …")

import buf_tool
import engine_wheel
import environments
import lock
import system_packages
from steps import ROOT, fail, run_logged, step

STAMPS = ROOT / ".cache" / "setup"
SUITE_VENV = ROOT / ".venv"
SETUP_FOLDER = Path(__file__).parent


def make_stamp(*parts: str) -> str:
    """Digest of what a finished set-up depends on: its own code, interpreter, place and `parts`."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for source in sorted((*SETUP_FOLDER.glob("*.py"), *SETUP_FOLDER.glob("*.sh"))):
        digest.update(source.read_bytes())
    for part in parts:
        digest.update(part.encode())
    return digest.hexdigest()


def is_done(name: str, stamp: str, *results: Path) -> bool:
    """Whether this very set-up was finished and its results are still there."""
    path = STAMPS / name
    return path.exists() and path.read_text() == stamp and all(r.exists() for r in results)


def mark_done(name: str, stamp: str) -> None:
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / name).write_text(stamp)


def prepare_suite() -> None:
    """Everything that running and testing the suite needs: packages, engine, environment, Consul."""
    lock.require_fresh()
    key = engine_wheel.describe_machine()
    pins = (environments.LOCKS / "suite.txt").read_text("utf-8")
    stamp = make_stamp(pins, lock.PYPROJECT.read_text("utf-8"), key)
    if is_done("suite", stamp, SUITE_VENV / "bin" / "farthing"):
        return
    print("setting up (once; the whole output goes to build/setup.log)")
    wheel = engine_wheel.find_cached(key)
    if missing := system_packages.list_missing(will_compile=wheel is None):
        system_packages.install(missing)
    with step("virtual environment"):
        python = environments.ensure(SUITE_VENV)
    with step("Python packages"):
        environments.install_locked(python, "suite")
    if wheel is None:
        with step(
            "llama.cpp engine for this processor (compiles 4 to 12 minutes, once per machine)"
        ):
            wheel = engine_wheel.build(key)
    with step("engine and project"):
        engine_wheel.install(python, engine_wheel.store(wheel, key))
        environments.install_project(python)
    check_engine(python, wheel)
    with step("Consul"):
        run_logged(["sh", SETUP_FOLDER / "get_consul.sh"], "see the message above")
    mark_done("suite", stamp)


def prepare_engine_wheel(machine: str = platform.machine()) -> None:
    """A wheel of the engine to ship to machines of a kind, whatever their processor: see the baselines."""
    baseline, _ = engine_wheel.find_baseline(machine)
    is_ours = machine == platform.machine()
    key = engine_wheel.describe_machine(machine, portable=True)
    wheel = engine_wheel.find_cached(key)
    if missing := system_packages.list_missing(
        will_compile=wheel is None, machine="" if is_ours else machine
    ):
        system_packages.install(missing)
    if wheel is None:
        with step("llama.cpp engine for shipping (compiles 4 to 12 minutes, once per machine)"):
            wheel = engine_wheel.build(key, machine, portable=True)
    if is_ours:
        with tempfile.TemporaryDirectory() as folder:
            unpacked = engine_wheel.unpack(wheel, Path(folder))
            check_engine(SUITE_VENV / "bin" / "python", wheel, {"PYTHONPATH": str(unpacked)})
    else:
        print(f"  not tried here: it is for {machine}, where the edge tests it when it starts")
    target = ROOT / "dist" / wheel.name
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(wheel, target)
    size_mb = target.stat().st_size / 1e6
    print(f"{target.relative_to(ROOT)}: {size_mb:.1f} MB, for {baseline} or newer")


def check_engine(python: Path, wheel: Path, env: Mapping[str, str] | None = None) -> None:
    """Let a child process decode quantized models: a wrongly compiled engine kills it."""
    models = sorted((ROOT / "deploy" / "demo-models").glob("*/*.gguf"))
    with step("engine self-test"):
        run_logged(
            [python, SETUP_FOLDER / "engine_check.py", *models],
            f"the engine built for this processor does not work: delete {wheel.parent} and its "
            "copy in .cache/wheels, then make setup compiles it again; a status below zero is a "
            "crash inside the engine, which a newer compiler (CC=, CXX=) may cure",
            env=env,
        )


def prepare_protos() -> None:
    """The generator's own environment."""
    stamp = make_stamp((environments.LOCKS / "protos.txt").read_text("utf-8"))
    folder = ROOT / ".venvs" / "protos"
    if is_done("protos", stamp, folder / "bin" / "protoc-gen-mypy_grpc"):
        return
    lock.require_fresh()
    if missing := system_packages.list_missing_for_environments():
        system_packages.install(missing)
    with step("protobuf generator"):
        environments.install_locked(environments.ensure(folder), "protos")
    mark_done("protos", stamp)


def main() -> None:
    parts: dict[str, Callable[..., None]] = {
        "suite": prepare_suite,
        "engine-wheel": prepare_engine_wheel,
        "protos": prepare_protos,
        "buf": buf_tool.ensure,
    }
    name, *machine = sys.argv[1:] or [""]
    if name not in parts or len(machine) > (name == "engine-wheel"):
        sys.exit("usage: prepare.py suite | engine-wheel [MACHINE] | protos | buf")
    guard = ROOT / ".cache" / "setup.lock"
    try:
        guard.parent.mkdir(exist_ok=True)
        guard.touch()
    except OSError as error:
        fail(f"cannot write in {ROOT}: {error.strerror}", "clone into a folder of your own")
    with guard.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up of this checkout to end …", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            parts[name](*machine)
        except KeyboardInterrupt:
            sys.exit("\nset-up interrupted: repeat the command, it goes on where it stopped")


if __name__ == "__main__":
    main()
