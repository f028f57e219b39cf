"""Generate the Python modules of every .proto file, or check that the committed ones are fresh.

Runs inside the private environment of the `protos` dependency group: the generator's version
is the floor of everyone who imports its output, so it is older than what developers install.
"""

from __future__ import annotations

import argparse
import filecmp
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
GENERATED_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
SERVICE_LINE = re.compile(r"^\s*service\s+\w+", re.MULTILINE)


def list_generated(folder: Path) -> dict[str, Path]:
    """Every generated module below `folder`, by its path relative to it."""
    found = (path for pattern in GENERATED_PATTERNS for path in folder.rglob(pattern))
    return {path.relative_to(folder).as_posix(): path for path in found}


def run_protoc(out: Path) -> None:
    """Write the modules of all .proto files under `out`; exits with protoc's own message."""
    sources = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))
    if not sources:
        sys.exit(f"no .proto file below {PROTOS}")
    # Stubs only where there is a service: the plugin writes an empty module otherwise.
    services = [s for s in sources if SERVICE_LINE.search((PROTOS / s).read_text("utf-8"))]
    site_packages = sysconfig.get_path("purelib")
    # Plugins lie beside this interpreter, which need not be on PATH.
    bin_folder = Path(sys.executable).parent
    base = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{site_packages}"]
    passes: list[tuple[list[str], list[Path]]] = [
        ([f"--python_out={out}", f"--pyi_out={out}"], sources),
        (
            [
                f"--grpc_python_out={out}",
                f"--plugin=protoc-gen-mypy_grpc={bin_folder / 'protoc-gen-mypy_grpc'}",
                f"--mypy_grpc_out=quiet:{out}",
            ],
            services,
        ),
    ]
    for flags, files in passes:
        if files and subprocess.run([*base, *flags, *map(str, files)]).returncode:
            sys.exit("protoc refused: correct the file and line it names, then run make protos")


def regenerate() -> None:
    """Replace the generated modules; a refused .proto leaves the present ones untouched."""
    with tempfile.TemporaryDirectory() as folder:
        fresh_folder = Path(folder)
        run_protoc(fresh_folder)
        fresh = list_generated(fresh_folder)
        present = list_generated(PROTOS)
        for name in present.keys() - fresh.keys():
            present[name].unlink()
        changed_count = 0
        for name, source in fresh.items():
            target = PROTOS / name
            if target.exists() and filecmp.cmp(source, target, shallow=False):
                continue
            shutil.copyfile(source, target)
            changed_count += 1
        for package in sorted({(PROTOS / name).parent for name in fresh}):
            (package / "py.typed").touch()
        print(f"protos: {len(fresh)} modules, {changed_count} changed")


def verify() -> None:
    """Exit with the list of stale, missing or left-over modules, if there is any."""
    with tempfile.TemporaryDirectory() as folder:
        fresh_folder = Path(folder)
        run_protoc(fresh_folder)
        fresh, present = list_generated(fresh_folder), list_generated(PROTOS)
        wrong = [f"missing    {name}" for name in sorted(fresh.keys() - present.keys())]
        wrong += [f"left over  {name}" for name in sorted(present.keys() - fresh.keys())]
        wrong += [
            f"stale      {name}"
            for name in sorted(fresh.keys() & present.keys())
            if not filecmp.cmp(fresh[name], present[name], shallow=False)
        ]
    if wrong:
        sys.exit("\n".join([*wrong, "generated code is not fresh: run make protos"]))
    print(f"protos: {len(fresh)} generated modules are fresh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    (verify if parser.parse_args().check else regenerate)()


if __name__ == "__main__":
    main()
