"""The peer: LiteLLM's proxy in a virtual environment of its own, before an upstream that answers at once."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from tests.bench.peer_process import NoPeer, make_environment
from tests.bench.processes import NotReady, answers_http, started, write_json

from farthing.kit.testing import free_port

VERSION = "1.106.2"
_START_S = 180.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy. `start_s` is from exec to its liveness probe's answer."""

    process: Popen[bytes]
    url: str
    key: str
    model: str
    start_s: float


def install() -> Path:
    """LiteLLM's command, in about 1 GB that are installed once. NoPeer when it cannot be had."""
    return make_environment(f"litellm-{VERSION}", [f"litellm[proxy]=={VERSION}"]).with_name(
        "litellm"
    )


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
