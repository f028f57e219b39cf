"""Peers that need environments or processes of their own: made once below .cache/bench, asked in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.bench.processes import ROOT

_INSTALL_S = 1_800
Asking = Callable[[Mapping[str, Any]], dict[str, Any]]


class NoPeer(Exception):
    """The peer cannot be had or used here; the message says why."""


def make_environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages. NoPeer when they cannot be had."""
    place = ROOT / ".cache" / "bench" / name
    python = place / "bin" / "python"
    if (place / "installed").exists():
        return python
    print(f"installing {', '.join(requirements)} into {place.relative_to(ROOT)} …", flush=True)
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(place)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
        ):  # fmt: skip
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_INSTALL_S
            )
    except subprocess.CalledProcessError as error:
        # The last such line names what is missing; those before may list every version there is.
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")]
        raise NoPeer((lines[-1] if lines else str(error))[:200]) from error
    except subprocess.TimeoutExpired as error:
        raise NoPeer(f"installing took more than {_INSTALL_S} s") from error
    (place / "installed").touch()
    return python


@contextmanager
def asked(command: Sequence[str], **environ: str) -> Iterator[Asking]:
    """A process that answers each line of JSON with one; NoPeer when it ends, or answers with an "error"."""
    with (
        TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, **environ},
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(what: Mapping[str, Any]) -> dict[str, Any]:
            line = ""
            with suppress(BrokenPipeError):
                stdin.write(json.dumps(what) + "\n")
                stdin.flush()
                line = stdout.readline()
            if not line:
                errors.seek(0)
                last = errors.read()[-300:].decode(errors="replace")
                raise NoPeer(f"{command[1]} ended: {last}")
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise NoPeer(answer["error"][:300])
            return answer

        try:
            yield ask
        finally:
            with suppress(BrokenPipeError):
                stdin.close()
