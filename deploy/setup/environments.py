"""Make virtual environments and install exactly what the lock files list into them."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from steps import ROOT, fail, run_logged

LOCKS = ROOT / "deploy" / "setup" / "locks"
PIP_REMEDY = (
    "check that pip can reach a package index (python3 -m pip config list shows which), "
    "then repeat; the whole output is in build/setup.log"
)


def is_usable(folder: Path) -> bool:
    """Whether `folder` holds an environment of this Python version that still starts, with pip."""
    python = folder / "bin" / "python"
    if not python.exists():
        return False
    probe = "import pip, sys; print(sys.version_info[:2], sys.prefix)"
    result = subprocess.run([python, "-c", probe], capture_output=True, text=True)
    expected = f"{tuple(sys.version_info[:2])} {folder.resolve()}"
    return result.returncode == 0 and result.stdout.strip() == expected


def ensure(folder: Path) -> Path:
    """Make the environment unless a usable one is there; returns its interpreter."""
    if not is_usable(folder):
        try:
            venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"no virtual environment in {folder}: {error}", "install python3-venv, repeat")
    return folder / "bin" / "python"


def install_locked(python: Path, lock_name: str) -> None:
    """Install the hashed pins of `deploy/setup/locks/<lock_name>.txt`; wheels only, nothing is compiled."""
    run_logged(
        [
            *(python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "-r", LOCKS / f"{lock_name}.txt"),
        ],
        PIP_REMEDY,
    )


def install_project(python: Path) -> None:
    """Install this checkout as an editable package; its dependencies are there already."""
    run_logged(
        [
            *(python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"),
            *("--no-build-isolation", "--editable", ROOT),
        ],
        "see the build's message above; pyproject.toml and the files it names must be whole",
    )
