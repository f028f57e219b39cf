"""Find which operating-system packages are missing and install them with apt-get where that is possible."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence

from steps import fail, run_logged, step

# Found by experiment in a Debian 12 root that held python3, git, make and ca-certificates only.
COMPILER_PACKAGES = ("g++",)  # cmake and ninja come from the locked Python environment
OPENMP_PACKAGES = ("libgomp1",)  # what a ready engine wheel links against
VENV_PACKAGES = ("python3-venv",)  # Debian keeps ensurepip apart from python3


def has_openmp() -> bool:
    """Whether the OpenMP runtime that the compiled engine needs can be loaded."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return True


def list_missing_for_environments() -> list[str]:
    """Debian names of what making a virtual environment lacks."""
    return [] if importlib.util.find_spec("ensurepip") else list(VENV_PACKAGES)


def list_missing(*, will_compile: bool, machine: str = "") -> list[str]:
    """Debian names of the packages this machine lacks; `will_compile` when no engine wheel is cached.

    `machine` is named when it is another's kind that is compiled for.
    """
    missing = list_missing_for_environments()
    if sys.platform != "linux":
        return missing
    if machine:
        if will_compile and shutil.which(f"{machine}-linux-gnu-g++") is None:
            missing.append(f"g++-{machine.replace('_', '-')}-linux-gnu")
        return missing
    if will_compile and shutil.which(os.environ.get("CXX", "g++")) is None:
        missing += COMPILER_PACKAGES
    elif not has_openmp():
        missing += OPENMP_PACKAGES
    return missing


def choose_privilege() -> list[str] | None:
    """The words to put before apt-get, or None when this user may not install packages."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    # Without a terminal nobody can type a password: let sudo fail at once instead of hanging.
    return ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]


def install(packages: Sequence[str]) -> None:
    """Install Debian packages, or stop with the exact command that an administrator should run."""
    command = (
        f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    )
    privilege = choose_privilege()
    if privilege is None:
        fail(f"missing system packages: {' '.join(packages)}", f"as root, run: {command}")
    remedy = f"as root, run: {command}   then repeat"
    environment = [*privilege, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    with step(f"system packages: {' '.join(packages)}"):
        run_logged([*environment, "update", "-q"], remedy)
        run_logged(
            [*environment, "install", "-y", "-q", "--no-install-recommends", *packages], remedy
        )
