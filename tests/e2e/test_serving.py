"""A request's way through all processes, by either interface."""

from __future__ import annotations

import pytest
from tests.support.books import agreed, read_trace
from tests.support.tenant import Tenant, ask

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_openai_sdk_gets_an_answer_with_its_bill(
    tenant: Tenant, stream: bool
) -> None:
    told = await tenant.chat("What is 2 + 3?", stream=stream, task="math", cache="off")
    assert told.text
    assert told.total_nano_usd > 0
    assert told.input_token_count > 0 and told.output_token_count > 0
    await agreed(tenant)
