"""The console over HTTP: who gets in, what the pages say, and what they never do."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import CookieJar
from aiohttp.test_utils import TestClient, TestServer

from farthing.kit.testing import FakeClock
from farthing.ledger.console import formats
from farthing.ledger.console.app import COOKIE, make_console
from farthing.ledger.console.sessions import Sessions
from farthing.ledger.core.charges import Charge, Waste
from farthing.ledger.core.spans import Span, SpanEvent
from farthing.ledger.core.spend import Dimension, SpendQuery
from farthing.ledger.store import LedgerStore, MemoryLedgerStore

MakeCharge = Callable[..., Charge]
MakeSpan = Callable[..., Span]
HOSTILE = "<script>alert(1)</script>\"'&"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;"


class Console:
    """A running console and a browser before it."""

    def __init__(
        self, client: TestClient[Any, Any], store: LedgerStore, clock: FakeClock
    ) -> None:
        self.client, self.store, self.clock = client, store, clock

    async def login(self, key: str = "fk-admin", **headers: str) -> int:
        response = await self.client.post(
            "/login", data={"key": key}, headers=headers, allow_redirects=False
        )
        return response.status

    async def page(self, path: str) -> str:
        response = await self.client.get(path, allow_redirects=False)
        assert response.status == 200, (path, response.status)
        return await response.text()

    async def rows(self, path: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(await self.page(path))))


@pytest.fixture
async def console(resolve_key: Callable[[bytes], Any]) -> AsyncIterator[Console]:
    clock, store = FakeClock(), MemoryLedgerStore()
    clock.advance(12 * 3600 + 1800)  # half an hour after the charges that make_charge builds
    tokens = (f"token-{number}" for number in itertools.count())
    sessions = Sessions(resolve_key, clock, life_s=3600, make_token=lambda: next(tokens))
    application = make_console(store, sessions, clock, session_s=3600, secure_cookie=False)
    client = TestClient(TestServer(application), cookie_jar=CookieJar(unsafe=True))
    async with client:
        yield Console(client, store, clock)


def amounts(page: str, section: str) -> list[int]:
    """Exact amounts in the table of a panel, its total last."""
    start = page.index(f'id="{section}"')
    table = page[start : page.index("</table>", start)]
    cells = re.findall(r'<td class="number">(?:(?!</td>).)*?</td></tr>', table, re.DOTALL)
    return [int(re.findall(r'<data class="money" value="(\d+)"', cell)[0]) for cell in cells]


async def test_nobody_sees_anything_without_logging_in(console: Console) -> None:
    for path in ("/", "/books", f"/traces/{'a' * 32}", "/spend/model.csv", "/nowhere"):
        response = await console.client.get(path, allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (303, "/login")
    assert (await console.client.get("/login")).status == 200


async def test_only_an_admin_key_opens_a_session(console: Console, keys: Any) -> None:
    assert await console.login("fk-guess") == 403
    assert await console.login("fk-acme") == 403
    keys.reachable = False
    assert await console.login() == 503
    keys.reachable = True
    assert await console.login() == 303
    await console.page("/")


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(console: Console) -> None:
    response = await console.client.post(
        "/login", data={"key": "fk-admin"}, allow_redirects=False
    )
    cookie = response.cookies[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    assert "fk-admin" not in cookie.value


async def test_forms_of_other_sites_are_refused(console: Console) -> None:
    assert await console.login(Origin="https://evil.example") == 403
    assert await console.login(**{"Sec-Fetch-Site": "cross-site"}) == 403
    assert await console.login(**{"Sec-Fetch-Site": "same-origin"}) == 303


async def test_a_session_ends_at_logout_with_its_time_and_with_its_key(
    console: Console, keys: Any
) -> None:
    async def inside() -> bool:
        return (await console.client.get("/", allow_redirects=False)).status == 200

    await console.login()
    assert await inside()
    await console.client.post("/logout")
    assert not await inside()
    await console.login()
    console.clock.advance(3601)
    assert not await inside()
    await console.login()
    console.clock.advance(60)
    keys.reachable = False
    assert await inside()
    keys.reachable = True
    del keys.owners["fk-admin"]
    assert not await inside()


async def test_every_answer_forbids_scripts_frames_and_foreign_sources(
    console: Console, make_charge: MakeCharge
) -> None:
    await console.store.record_charges([make_charge()])
    await console.login()
    trace = make_charge().trace_id
    for path in (
        "/",
        "/books",
        "/login",
        f"/traces/{trace}",
        "/traces/x",
        "/static/console.css",
    ):
        response = await console.client.get(path)
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        text = await response.text()
        assert "<script" not in text
        assert " style=" not in text
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text)


async def test_the_tables_add_up_to_what_a_query_tells(
    console: Console, make_charge: MakeCharge
) -> None:
    noon = make_charge().charge_time_ns
    await console.store.record_charges(
        [
            make_charge(
                f"c{n}",
                1 + n * 37,
                organisation_id=f"org-{n % 3}",
                model=f"model-{n}",
                region=("edge-site", "cloud-a")[n % 2],
                charge_time_ns=noon - (n % 5) * 3_600_000_000_000,
            )
            for n in range(40)
        ]
    )
    await console.login()
    for name, start_ns in (("24h", 0), ("all", 0), ("1h", noon - 1_800_000_000_000)):
        queries = [
            SpendQuery(start_ns, console.clock.time_ns(), group)
            for group in (
                (),
                (Dimension.ORGANISATION,),
                (Dimension.MODEL,),
                (Dimension.REGION,),
            )
        ]
        whole, *_ = results = await console.store.query_spend(queries)
        page = await console.page(f"/?range={name}")
        for dimension, result in zip(
            ("organisation", "model", "region"), results[1:], strict=True
        ):
            *parts, total = amounts(page, f"by-{dimension}")
            assert sum(parts) == total == whole.total_nano_usd
            shown = [row.total_nano_usd for row in result.rows][: len(parts) - 1]
            assert parts[: len(shown)] == shown
            file = await console.rows(f"/spend/{dimension}.csv?range={name}")
            assert sum(int(row["total_nano_usd"]) for row in file) == total
    assert "All others" in await console.page("/?range=all")


async def test_waste_and_unpriced_work_are_shown(
    console: Console, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    await console.store.record_charges(
        [
            make_charge("a", 250, waste=Waste.HEDGED),
            make_charge("b", 750),
            make_charge("c", 0, price_version="", model="unknown-model"),
        ]
    )
    await console.store.record_spans([make_span("9" * 16, token_count=3)])
    await console.login()
    page = await console.page("/")
    assert "25.0 % of spend was of no use" in page
    assert "foreign spans with tokens but no cost: 1" in page
    assert '<span class="tag warn">unpriced</span>' in page
    assert "$0.00</data></td>" not in page[page.index('id="by-model"') : page.index("<tfoot>")]


async def test_names_from_outside_stay_text(
    console: Console, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    hostile = make_charge(
        HOSTILE,
        organisation_id=HOSTILE,
        team_id=HOSTILE,
        model=HOSTILE,
        region=HOSTILE,
        request_id=HOSTILE,
        task=HOSTILE,
        instance_id=HOSTILE,
        price_version=HOSTILE,
    )
    rejected = json.dumps([{"model": HOSTILE, "reason": HOSTILE}, HOSTILE, 7, None])
    await console.store.record_charges([hostile])
    await console.store.record_spans(
        [
            make_span(
                name=HOSTILE,
                service_name=HOSTILE,
                region=HOSTILE,
                attributes={HOSTILE: HOSTILE, "gen_ai.request.model": HOSTILE},
                events=(
                    SpanEvent(
                        "farthing.decision",
                        1,
                        {
                            "farthing.decision.reason": HOSTILE,
                            "farthing.decision.rejected": rejected,
                        },
                    ),
                ),
            )
        ]
    )
    await console.login()
    for path in ("/", f"/traces/{hostile.trace_id}"):
        page = await console.page(path)
        assert "<script" not in page
        assert page.count(ESCAPED) >= 5


async def test_a_trace_page_shows_costs_decision_rejected_candidates_and_charges(
    console: Console, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    root, leaf = "1" * 16, "2" * 16
    charge = make_charge("charge_9", 4_056, span_id=leaf)
    rejected = [
        {
            "model": "lab-large",
            "tier": "cloud",
            "region": "cloud-a",
            "estimated_nano_usd": 91_234,
            "reason": "cost",
            "detail": "costs 22 times as much",
        }
    ]
    decision = {
        "farthing.decision.reason": "cheapest of 2 that qualify",
        "farthing.decision.policy": "balanced",
        "farthing.decision.rejected": json.dumps(rejected),
    }
    await console.store.record_charges([charge])
    await console.store.record_spans(
        [
            make_span(
                root, name="Generate", events=(SpanEvent("farthing.decision", 1, decision),)
            ),
            make_span(
                leaf,
                parent_span_id=root,
                cost_nano_usd=4_056,
                token_count=46,
                attributes={
                    "gen_ai.request.model": "lab-small",
                    "gen_ai.usage.input_tokens": "12",
                    "gen_ai.usage.output_tokens": "34",
                },
            ),
        ]
    )
    await console.login()
    assert f'href="/traces/{charge.trace_id}"' in await console.page("/")
    page = await console.page(f"/traces/{charge.trace_id}")
    for text in ("cheapest of 2 that qualify", "policy balanced", "lab-large", "12 → 34",
                 "cost: costs 22 times as much", "$0.00009123", "charge_9", "agrees with the charges"):  # fmt: skip
        assert text in page
    waterfall = page[page.index('class="waterfall"') : page.index('id="charges"')]
    assert re.findall(r'value="(\d+)"', waterfall) == ["4056", "4056", "4056"]
    file = await console.rows(f"/traces/{charge.trace_id}/charges.csv")
    assert sum(int(row["amount_nano_usd"]) for row in file) == 4_056
    assert (await console.client.get(f"/traces/{'0' * 32}")).status == 404


async def test_the_books_page_tells_balance_and_differences(
    console: Console, make_charge: MakeCharge, make_span: MakeSpan
) -> None:
    await console.store.record_charges(
        [
            make_charge("a", 10, trace_id="a" * 32),
            make_charge("b", 20, trace_id="b" * 32),
            make_charge("c", 30, trace_id="c" * 32),
        ]
    )
    await console.store.record_spans(
        [
            make_span(trace_id="a" * 32, cost_nano_usd=10),
            make_span(trace_id="b" * 32, cost_nano_usd=21),
        ]
    )
    await console.login()
    page = await console.page("/books?range=all")
    assert ">balanced<" in page
    assert f"/traces/{'b' * 32}" in page
    assert f"/traces/{'a' * 32}" not in page
    file = await console.rows("/books/traces.csv?range=all")
    assert {row["trace_id"][0]: row["agrees"] for row in file} == {
        "a": "true", "b": "false", "c": "false"
    }  # fmt: skip


async def test_a_file_never_holds_a_formula(console: Console, make_charge: MakeCharge) -> None:
    await console.store.record_charges([make_charge("a", 7, model='=HYPERLINK("x")')])
    await console.login()
    (row,) = await console.rows("/spend/model.csv")
    assert row["model"] == '\'=HYPERLINK("x")'
    assert (row["total_nano_usd"], row["total_usd"]) == ("7", "0.000000007")


async def test_unknown_ranges_fall_back_and_unknown_files_are_not_found(
    console: Console,
) -> None:
    await console.login()
    assert "Nothing was spent in this range" in await console.page("/?range=<x>")
    for path in ("/spend/trace.csv", "/spend/nothing.csv", "/static/../app.py"):
        assert (await console.client.get(path)).status == 404


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0 %"), (1, 10_000, "< 0.1 %"), (999_999, 1_000_000, "99.9 %"), (5, 5, "100 %")],
)
def test_shares_never_round_to_nothing_or_to_all(part: int, whole: int, text: str) -> None:
    assert formats.show_share(part, whole) == text
