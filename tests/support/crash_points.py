"""Kills a process before each of its file operations in turn, and looks at what it leaves.

Run as `python -m tests.support.crash_points FOLDER`: prints a JSON line for every place where it was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from farthing.inference.store import GcWishes, ModelStore

_OPERATIONS = {
    "open",
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "os.utime",
    "shutil.rmtree",
    "fcntl.flock",
}


def main(folder: Path) -> None:
    """`folder` holds old.gguf and new.gguf; the store begins with `m` being the old one."""
    sources = {name: folder / f"{name}.gguf" for name in ("old", "new")}
    first = ModelStore(folder / "first")
    digests = {first.add(source, name).digest: name for name, source in sources.items()}
    begin, damaged = folder / "begin", folder / "damaged"
    ModelStore(begin).add(sources["old"], "m")
    shutil.copytree(begin, damaged)
    path = ModelStore(damaged).resolve("m").path
    path.chmod(0o644)
    path.write_bytes(b"GGUF")
    works: dict[str, tuple[Path, Callable[[ModelStore], object]]] = {
        "replace": (begin, lambda store: store.add(sources["new"], "m", replace=True)),
        "repair": (damaged, lambda store: store.add(sources["old"], "m")),
        "remove": (begin, lambda store: store.remove("m")),
        "measure": (begin, lambda s: s.record_measurement("m", {"task_quality": {"t": {}}})),
        "collect": (begin, lambda store: store.collect(GcWishes(limit_bytes=0))),
    }
    for name, (start, work) in works.items():
        for number in range(1, 500):
            root = folder / "models"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(start, root)
            finished = run_until(number, root, partial(work, ModelStore(root)))
            seen = inspect(ModelStore(root), digests)
            ModelStore(root).add(sources["new"], "after")
            ModelStore(root).collect(GcWishes())
            left = [*root.glob("incoming/*"), *root.rglob(".*")]
            seen |= {"finished": finished, "leftover": [str(path) for path in left]}
            sys.stdout.write(json.dumps({"work": name, **seen}) + "\n")
            if finished:
                break


def run_until(number: int, root: Path, work: Callable[[], object]) -> bool:
    """Runs the work in a child that dies before its operation of that number; whether it came to its end."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            touched = any(str(root) in str(one) for one in arguments) or event == "fcntl.flock"
            if event in _OPERATIONS and touched:
                left -= 1
                if left == 0:
                    os._exit(9)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def inspect(store: ModelStore, digests: dict[str, str]) -> dict[str, object]:
    """What the names stand for, and whether all is sound."""
    entries = {
        entry.name: digests.get(entry.digest, "?") if entry.model is not None else "damaged"
        for entry in store.survey()
    }
    damage = [verdict.damage for verdict in store.verify() if verdict.damage]
    measured = [model.name for model in store.list() if model.measured]
    return {"names": entries, "damage": damage, "measured": measured}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
