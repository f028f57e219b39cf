"""Fetch the buf linter's program from its npm package into `.tools`, checked against a pinned digest."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import environments
from steps import ROOT, fail, run_logged, shared_cache, step

VERSION = "1.75.0"
# npm's own `dist.integrity` of each package version.
SHA512_BASE64 = {
    "x64": "YGGJAx0lpMCE7aMWjNOJcfoEaG/e+iYHnTC4SZ0P5eS4IffMryA9Z4/bb1m1wNXAEJ8ATFMEZOAk/5x9VE47ig==",
    "aarch64": "eX+XyokzJDqsNIFo8b1O3DBvbnksOozPJX4QVsNn61JqSUtWspyTNeYqwg8lRDancML+bDqZEDFPABjAsVCQGQ==",
}
MACHINES = {"x86_64": "x64", "aarch64": "aarch64"}
PROGRAM = ROOT / ".tools" / "buf" / VERSION / "buf"


def is_intact(archive: Path, machine: str) -> bool:
    """Whether the package's digest is the pinned one."""
    if not archive.exists():
        return False
    digest = hashlib.sha512(archive.read_bytes()).digest()
    return base64.b64encode(digest).decode() == SHA512_BASE64[machine]


def find_npm() -> tuple[list[str | Path], str]:
    """The npm command and the PATH it needs: the machine's own, else one from the Python index."""
    path = os.environ["PATH"]
    if npm := shutil.which("npm"):
        return [npm], path
    python = environments.ensure(ROOT / ".venvs" / "node")
    environments.install_locked(python, "buf")
    return [python.parent / "npm"], f"{python.parent}{os.pathsep}{path}"


def fetch(machine: str, folder: Path) -> Path:
    """Download the package with npm, which knows the configured registry; stop if it is not the pinned one."""
    npm, path = find_npm()
    package = f"@bufbuild/buf-linux-{machine}"
    run_logged(
        [*npm, "pack", "--silent", "--pack-destination", folder, f"{package}@{VERSION}"],
        "check that npm can reach a registry (npm config get registry)",
        env={"PATH": path},
    )
    archive = next(folder.glob("*.tgz"))
    if not is_intact(archive, machine):
        fail(f"{package} {VERSION} is not the pinned package", "check the npm registry in use")
    return archive


def ensure() -> None:
    """Unpack the program unless it is there."""
    if PROGRAM.exists():
        return
    machine = MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        remedy = f"install buf {VERSION} and link it as {PROGRAM}"
        fail(f"no pinned buf for {sys.platform} {platform.machine()}", remedy)
    with step(f"buf {VERSION}"), tempfile.TemporaryDirectory() as folder:
        kept = shared_cache() / "buf" / f"buf-{VERSION}-{machine}.tgz"
        archive = kept if is_intact(kept, machine) else fetch(machine, Path(folder))
        if archive != kept:
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(archive, kept)
            except OSError as error:
                print(f"    not cached in {kept.parent}: {error.strerror}")
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as package:
            program = package.extractfile("package/bin/buf")
            if program is None:
                fail(
                    f"{archive.name} holds no program", "report it: the pinned package changed"
                )
            partial = PROGRAM.with_suffix(f".{os.getpid()}")
            with program, partial.open("wb") as target:
                shutil.copyfileobj(program, target)
            partial.chmod(0o755)
            partial.replace(PROGRAM)
