"""The peer: llama.cpp's own server from a newer Debian suite, unpacked aside with its own loader."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peer_process import NoPeer
from tests.bench.processes import ROOT, answers_http, started

from farthing.kit.testing import free_port

SUITE = "forky"
PACKAGES = (
    "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libssl3t64", "libzstd1", "zlib1g",
    "libggml0", "libllama0", "llama.cpp-tools",
)  # fmt: skip
_PLACE = ROOT / ".cache" / "bench" / f"llama-server-{SUITE}"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Debian's builds of the kernels, best first, and the processor's flags that each needs.
_VARIANTS = (
    ("sapphirerapids", {"amx_int8", "avx512_bf16"}),
    ("zen4", {"avx512_bf16", "avx512_vnni"}),
    ("icelake", {"avx512_vnni", "avx512_vbmi"}),
    ("skylakex", {"avx512f", "avx512bw"}),
    ("haswell", {"avx2", "fma", "f16c"}),
    ("x64", set[str]()),
)


@dataclass(frozen=True, slots=True)
class Server:
    """A running llama-server."""

    url: str
    version: str
    variant: str


def install() -> Path:
    """The folder of Debian's unpacked packages, which apt checks against Debian's keyring. NoPeer if it cannot."""
    root = _PLACE / "root"
    if (root / "usr/bin/llama-server").exists():
        return root
    if shutil.which("apt-get") is None or not Path(_KEYRING).exists():
        raise NoPeer("this is no Debian system with its keyring")
    print(f"fetching llama-server of Debian {SUITE} into {_PLACE.relative_to(ROOT)} …")
    shutil.rmtree(_PLACE, ignore_errors=True)
    for part in ("state/lists/partial", "cache/archives/partial", "sources", "debs", "root"):
        (_PLACE / part).mkdir(parents=True)
    (_PLACE / "state/status").touch()
    mirror = os.environ.get("DEBIAN_MIRROR") or _mirror()
    (_PLACE / "sources/llama.sources").write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\nSigned-By: {_KEYRING}\n"
    )
    apt = [
        "apt-get", "-qq", "-o", "Dir::Etc::SourceList=/dev/null",
        "-o", f"Dir::Etc::SourceParts={_PLACE}/sources", "-o", f"Dir::State={_PLACE}/state",
        "-o", f"Dir::State::status={_PLACE}/state/status", "-o", f"Dir::Cache={_PLACE}/cache",
        "-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3",
    ]  # fmt: skip
    _run([*apt, "update"], _PLACE)
    _run([*apt, "download", *PACKAGES], _PLACE / "debs")
    for archive in sorted((_PLACE / "debs").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(archive), str(root)], _PLACE)
    return root


@contextmanager
def running_server(
    root: Path,
    model: Path,
    *,
    slot_count: int,
    context_length: int,
    thread_count: int,
    log: Path,
) -> Iterator[Server]:
    """llama-server with this model and as many slots, until the block ends."""
    libraries = next((root / "usr/lib").glob("*-linux-gnu"))
    backends = libraries / "ggml/backends0"
    variant = _variant(backends)
    port = free_port()
    loader = next(libraries.glob("ld-linux-*"))
    program = [
        str(loader), "--library-path", f"{libraries}:{libraries}/llama:{backends}",
        str(root / "usr/bin/llama-server"),
    ]  # fmt: skip
    env = {"GGML_BACKEND_PATH": str(backends / f"libggml-cpu-{variant}.so")}
    version = subprocess.run(
        [*program, "--version"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    command = [
        *program, "-m", str(model), "-np", str(slot_count), "-c", str(slot_count * context_length),
        "-t", str(thread_count), "-tb", str(thread_count), "--host", "127.0.0.1",
        "--port", str(port), "--threads-http", "2",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with started(
        command, env, log=log, ready=lambda: answers_http(f"{url}/health"), wait_s=120
    ):
        said = (version.stdout + version.stderr).strip().splitlines()
        yield Server(url, said[0] if said else "unknown", variant)


def _variant(backends: Path) -> str:
    info = Path("/proc/cpuinfo").read_text()
    line = next((one for one in info.splitlines() if one.startswith("flags")), "")
    flags = set(line.split())
    for name, needed in _VARIANTS:
        if needed <= flags and (backends / f"libggml-cpu-{name}.so").exists():
            return name
    raise NoPeer("Debian has no build for this processor")


def _mirror() -> str:
    """The machine's own main archive; security archives have no such package."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    mirrors = [line for line in told if "security" not in line]
    if not mirrors:
        raise NoPeer("apt names no archive to fetch it from; set DEBIAN_MIRROR")
    return mirrors[0]


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(_PLACE / "root", ignore_errors=True)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NoPeer(f"{command[0]}: {lines[-1] if lines else done.returncode}")
