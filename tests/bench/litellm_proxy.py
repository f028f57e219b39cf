"""The peer: LiteLLM's proxy in a virtual environment of its own, before an upstream that answers at once."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from tests.bench.processes import ROOT, NotReady, answers_http, started, write_json

from farthing.kit.testing import free_port

VERSION = "1.106.2"
_PLACE = ROOT / ".cache" / "bench" / f"litellm-{VERSION}"
_START_S = 180.0


class NoPeer(Exception):
    """LiteLLM cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy. `start_s` is from exec to its liveness probe's answer."""

    process: Popen[bytes]
    url: str
    key: str
    model: str
    start_s: float


def install() -> Path:
    """Return LiteLLM's command, installed by pip unless it is there. NoPeer with pip's last error."""
    command = _PLACE / "bin" / "litellm"
    if command.exists():
        return command
    print(f"installing litellm {VERSION} into {_PLACE.relative_to(ROOT)} (about 1 GB) …")
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(_PLACE)],
            check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        subprocess.run(
            [str(_PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", f"litellm[proxy]=={VERSION}"],
            check=True, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = error.stderr or b""
        text = said if isinstance(said, str) else said.decode(errors="replace")
        # The last line names what is missing; those before may list every version there is.
        lines = [line for line in text.splitlines() if line.startswith("ERROR")]
        command.unlink(missing_ok=True)
        raise NoPeer((lines[-1] if lines else str(error))[:200]) from error
    return command


@contextmanager
def running_proxy(command: Path, work: Path) -> Iterator[Proxy]:
    """One worker without a database: one model, a check of the API key, nothing else. NoPeer if it does not start."""
    upstream, port = free_port(), free_port()
    key = f"sk-{secrets.token_hex(16)}"  # well-known keys are refused at start
    config = write_json(  # JSON is YAML
        work / "litellm.json",
        {
            "model_list": [
                {
                    "model_name": "bench",
                    "litellm_params": {
                        "model": "openai/bench",
                        "api_base": f"http://127.0.0.1:{upstream}/v1",
                        "api_key": "upstream-key",
                    },
                }
            ],
            "general_settings": {"master_key": key},
            "litellm_settings": {"telemetry": False},
        },
    )
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "NO_PROXY": "127.0.0.1",
    }
    fake = [sys.executable, "-m", "tests.bench.fake_openai", str(upstream)]
    proxy = [str(command), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.enter_context(
            started(
                fake,
                {},
                log=work / "logs" / "fake_openai.log",
                ready=lambda: answers_http(f"http://127.0.0.1:{upstream}/"),
            )
        )
        begun = time.monotonic()
        try:
            process = stack.enter_context(
                started(
                    [*proxy, "--num_workers", "1"],
                    env,
                    log=work / "logs" / "litellm.log",
                    ready=lambda: answers_http(f"{url}/health/liveliness"),
                    wait_s=_START_S,
                    cwd=work,
                )
            )
        except NotReady as error:
            raise NoPeer(f"it did not start in {_START_S:g} s: {error}") from error
        yield Proxy(process, url, key, "bench", time.monotonic() - begun)
