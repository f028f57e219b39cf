"""Children are restarted when they crash, ended in order, and never outlive their supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farthing.cli.up.plan import ChildPlan, Listener
from farthing.cli.up.supervisor import Supervisor, check_ports
from farthing.kit.errors import FailedPrecondition, Unavailable
from farthing.kit.testing import eventually

_ROOT = Path(__file__).resolve().parents[2]

# Says that it is there by making a file, and notes its end in another.
_WELL = """
import pathlib, signal, sys
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def end(*_):
    with (folder / "ends").open("a") as file:
        file.write(name + "\\n")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, end)
(folder / name).touch()
while True:
    signal.pause()
"""


def plan(folder: Path, name: str, program: str, stage: int = 2) -> ChildPlan:
    return ChildPlan(
        name=name,
        command=(sys.executable, "-c", program, str(folder), name),
        environ=dict(os.environ),
        probe="grpc",
        address="",
        listeners=(),
        stage=stage,
    )


class Watched:
    """A supervisor whose children are well when they have made their file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.supervisor = Supervisor(folder / "logs", probe=self._probe, say=self.said.append)

    async def _probe(self, plan: ChildPlan) -> bool:
        return (self.folder / plan.name).exists()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path)
    yield made
    await made.supervisor.stop()


async def test_a_crashed_child_is_started_again(watched: Watched, tmp_path: Path) -> None:
    (child,) = watched.supervisor.start([plan(tmp_path, "a", _WELL)])
    await watched.supervisor.wait_until_well([child], timeout_s=20)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: child.pid not in (None, first), what="a new process")
    await watched.supervisor.wait_until_well([child], timeout_s=20)
    assert child.restart_count == 1
    assert "ended with status -9" in watched.said[0]


async def test_a_child_that_cannot_start_ends_the_start_with_its_last_words(
    watched: Watched, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.exit('farthing edge: the model is missing; set FARTHING_EDGE_MODEL')"
    )
    children = watched.supervisor.start(
        [plan(tmp_path, "bad", program), plan(tmp_path, "good", _WELL)]
    )
    with pytest.raises(FailedPrecondition, match=r"bad did not start.*the model is missing"):
        await watched.supervisor.wait_until_well(children, timeout_s=20)


async def test_a_child_that_is_never_well_is_named(watched: Watched, tmp_path: Path) -> None:
    (child,) = watched.supervisor.start(
        [plan(tmp_path, "slow", "import signal; signal.pause()")]
    )
    with pytest.raises(Unavailable, match="slow not well"):
        await watched.supervisor.wait_until_well([child], timeout_s=0.5)


async def test_lower_stages_end_first(watched: Watched, tmp_path: Path) -> None:
    names = {"consul": 3, "gateway": 0, "quota": 2, "router": 1}
    children = watched.supervisor.start(
        [plan(tmp_path, name, _WELL, stage) for name, stage in names.items()]
    )
    await watched.supervisor.wait_until_well(children, timeout_s=30)
    await watched.supervisor.stop()
    assert (tmp_path / "ends").read_text().split() == ["gateway", "router", "quota", "consul"]


async def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, sys
        from pathlib import Path
        from tests.cli.test_supervisor import Watched, plan, _WELL
        async def main():
            folder = Path({str(tmp_path)!r})
            watched = Watched(folder)
            children = watched.supervisor.start([plan(folder, "a", _WELL), plan(folder, "b", _WELL)])
            await watched.supervisor.wait_until_well(children, timeout_s=30)
            print(*(child.pid for child in children), flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
        """
    )
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        cwd=_ROOT,
        stdout=subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in (await supervisor.stdout.readline()).split()]
    assert len(pids) == 2
    supervisor.kill()
    await supervisor.communicate()
    await eventually(
        lambda: not any(is_running(pid) for pid in pids), what="the children's end"
    )


def is_running(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_taken_port_is_named_with_its_purpose() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=rf"port {port} on 127.0.0.1 \(gateway\)"):
            check_ports([Listener("127.0.0.1", port, "gateway")])
