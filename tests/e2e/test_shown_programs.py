"""The programs that the pages show run as they stand."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from tests.docs.pages import read_page
from tests.support.running_suite import ROOT
from tests.support.tenant import Tenant

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

PAGES = (
    "README.md",
    "docs/how-to/call-from-openai-sdk.md",
    "docs/how-to/call-from-grpc.md",
    "docs/tutorial/first-request.md",
)
PROGRAMS = [
    pytest.param(content, id=f"{page}-{number}")
    for page in PAGES
    for number, (language, content) in enumerate(read_page(page).blocks)
    if language == "python"
]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_shown_runs(tenant: Tenant, program: str) -> None:
    # With the variables that `farthing up` leaves in its env file.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        cwd=ROOT,
        env={
            **inherited,
            "OPENAI_BASE_URL": f"http://{tenant.layout.address('gateway')}/v1",
            "OPENAI_API_KEY": tenant.key,
            "FARTHING_ROUTER_ADDRESS": tenant.layout.address("router"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode(errors="replace")
    assert output
