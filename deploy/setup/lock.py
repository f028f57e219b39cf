"""Write the lock files: every direct and indirect dependency pinned with its hashes, for all platforms."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import environments
from steps import ROOT, fail, run_logged, step

PYPROJECT = ROOT / "pyproject.toml"
INPUTS_PATH = environments.LOCKS / "inputs.sha256"
EXTRAS = ("cloud", "edge", "hub")
ENGINE = "llama-cpp-python"
# The tools that the engine's own build asks for, from the index instead of the system.
ENGINE_BUILD_TOOLS = ("scikit-build-core[pyproject]>=0.10", "cmake>=3.28,<4", "ninja>=1.11")
EDITABLE_TOOLS = ("editables>=0.5",)
RESOLVER = "uv==0.13.9"
FORBIDDEN = ("torch", "triton", "nvidia-cublas")


def read_inputs(pyproject: dict[str, Any]) -> dict[str, list[str]]:
    """Requirements per lock file, from the tables of pyproject.toml."""
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    extras = [r for name in EXTRAS for r in project["optional-dependencies"][name]]
    suite = [*project["dependencies"], *extras, *groups["dev"]]
    suite += [*pyproject["build-system"]["requires"], *EDITABLE_TOOLS]
    engine = [r for r in suite if r.startswith(ENGINE)]
    return {
        "engine": engine,
        "engine-build": list(ENGINE_BUILD_TOOLS),
        "protos": groups["protos"],
        "buf": groups["buf"],
        "suite": suite,
    }


def digest_inputs() -> str:
    """Hash of everything the locks are made from."""
    inputs = read_inputs(tomllib.loads(PYPROJECT.read_text("utf-8")))
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def require_fresh() -> None:
    """Stop when pyproject.toml asks for something that the locks were not made from."""
    if not INPUTS_PATH.exists() or INPUTS_PATH.read_text("utf-8").strip() != digest_inputs():
        fail("pyproject.toml's dependencies changed after the locks were made", "run make lock")


def read_index_arguments(python: Path) -> list[str]:
    """The resolver's arguments for the package index that pip is configured to use."""
    result = subprocess.run(
        [python, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
    )
    return ["--index-url", result.stdout.strip()] if result.returncode == 0 else []


def check_lock(path: Path) -> None:
    """Refuse a lock that would pull in a training framework."""
    pinned = {
        line.split("==")[0] for line in path.read_text("utf-8").splitlines() if "==" in line
    }
    if found := pinned.intersection(FORBIDDEN):
        fail(f"{path.name} pins {', '.join(sorted(found))}", "remove what requires it, repeat")


def main() -> None:
    resolver = environments.ensure(ROOT / ".venvs" / "lock")
    with step(f"resolver {RESOLVER}"):
        run_logged(
            [resolver, "-m", "pip", "install", "--disable-pip-version-check", RESOLVER],
            environments.PIP_REMEDY,
        )
    environments.LOCKS.mkdir(exist_ok=True)
    for name, requirements in read_inputs(tomllib.loads(PYPROJECT.read_text("utf-8"))).items():
        source = environments.LOCKS / f".{name}.in"
        source.write_text("\n".join(requirements) + "\n", "utf-8")
        target = environments.LOCKS / f"{name}.txt"
        # The engine's dependencies are in the suite's lock; only its own source is pinned here.
        narrow = ["--no-deps"] if name == "engine" else []
        if name == "suite":
            narrow = ["--no-emit-package", ENGINE]
        with step(f"locks/{name}.txt"):
            run_logged(
                [
                    *(resolver.parent / "uv", "pip", "compile", "--quiet", "--universal"),
                    *("--python-version", "3.11", "--generate-hashes", "--no-annotate"),
                    *("--no-emit-index-url", "--no-header", "--upgrade", *narrow),
                    *read_index_arguments(resolver),
                    *("-o", target, source),
                ],
                "loosen the requirement it names in pyproject.toml, or check the package index",
            )
        source.unlink()
        check_lock(target)
    INPUTS_PATH.write_text(digest_inputs() + "\n", "utf-8")


if __name__ == "__main__":
    main()
