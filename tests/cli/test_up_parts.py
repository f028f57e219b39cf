"""The plan of a suite, its documents and its report."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2
from farthing.cli.up.layout import Layout, find_assets, parse_ports
from farthing.cli.up.plan import list_listeners, plan_agents, plan_services
from farthing.cli.up.records import (
    DemoPrompt,
    PromptRecord,
    record_grpc,
    record_http,
    write_records,
)
from farthing.cli.up.seeding import Keys, read_documents, remember_keys, write_env_file
from farthing.cli.up.show import make_console, show_record, show_sum
from farthing.gateway.replies import ChatReplies
from farthing.kit.errors import FailedPrecondition, InvalidArgument
from farthing.kit.settings import SettingsError
from farthing.pricing.book import PriceBook
from farthing.router.core.policy import parse_policy

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"FARTHING_EDGE_MODEL": "/models/e.gguf", "FARTHING_CLOUD_MODEL": "/models/c"}
PROMPT = DemoPrompt("p1", "math", "easy", ({"role": "user", "content": "1+1?"},), "Answer: 2")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(assets=ROOT / "deploy", state=tmp_path / "build" / "run")


def test_no_two_processes_share_a_port_or_a_name(layout: Layout) -> None:
    plans = plan_services(layout, admin_key="fk-x", environ=MODELS)
    listeners = [(item.host, item.port) for item in list_listeners(plans)]
    listeners += [
        (agent.address, port) for agent in plan_agents(layout) for port in agent.ports.values()
    ]
    assert len(set(listeners)) == len(listeners)
    assert len({plan.name for plan in plans}) == len(plans) == 8


def test_both_regions_have_a_router_and_clients_find_theirs_on_the_default_port(
    layout: Layout,
) -> None:
    plans = {
        plan.name: plan for plan in plan_services(layout, admin_key="fk-x", environ=MODELS)
    }
    assert plans["edge-site-router"].address == "127.0.0.1:50051"
    assert plans["cloud-a-router"].address == "127.0.2.1:50051"
    assert plans["edge-site-gateway"].address == "127.0.0.1:8080"
    assert plans["cloud-a-cloud"].environ["FARTHING_REGION"] == "cloud-a"


def test_a_users_setting_reaches_only_the_services_that_know_it(layout: Layout) -> None:
    environ = {**MODELS, "FARTHING_LOG_LEVEL": "debug", "FARTHING_CACHE_MEMORY_BYTES": "1"}
    for plan in plan_services(layout, admin_key="fk-x", environ=environ):
        assert plan.environ["FARTHING_LOG_LEVEL"] == "debug"
        assert ("FARTHING_CACHE_MEMORY_BYTES" in plan.environ) == plan.name.endswith("cache")


@pytest.mark.parametrize("tier", ["edge", "cloud"])
def test_the_demos_models_get_one_thread_unless_the_user_says_otherwise(
    layout: Layout, tmp_path: Path, tier: str
) -> None:
    layout = replace(layout, assets=tmp_path)
    (tmp_path / "demo-models" / "edge-small").mkdir(parents=True)
    (tmp_path / "demo-models" / "edge-small" / "edge-small-q8_0.gguf").touch()
    (tmp_path / "demo-models" / "cloud-large").mkdir()
    threads = f"FARTHING_{tier.upper()}_THREADS"

    def planned(environ: dict[str, str]) -> str | None:
        plans = plan_services(layout, admin_key="", environ=environ)
        (plan,) = (one for one in plans if one.name.endswith(f"-{tier}"))
        return plan.environ.get(threads)

    assert planned({}) == "1"
    assert planned({threads: "2"}) == "2"
    assert planned(MODELS) is None


def test_the_admin_key_reaches_quota_alone(layout: Layout) -> None:
    environ = {**MODELS, "FARTHING_ADMIN_KEY": "fk-secret"}
    for plan in plan_services(layout, admin_key="fk-secret", environ=environ):
        assert ("fk-secret" in plan.environ.values()) == plan.name.endswith("quota")


def test_an_unknown_setting_is_refused(layout: Layout) -> None:
    with pytest.raises(SettingsError, match="FARTHING_LOGLEVEL"):
        plan_services(layout, admin_key="", environ={**MODELS, "FARTHING_LOGLEVEL": "x"})


def test_a_missing_demo_model_names_the_ways_out(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"make models.*FARTHING_EDGE_MODEL"):
        plan_services(replace(layout, assets=tmp_path), admin_key="", environ={})


def test_ports_are_changed_by_purpose_and_mistakes_refused() -> None:
    assert parse_ports(("gateway=8081",))["gateway"] == 8081
    for text in ("gateway", "toaster=1", "gateway=0", "gateway=x"):
        with pytest.raises(InvalidArgument, match="purpose=port"):
            parse_ports((text,))


def test_outside_a_checkout_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="--assets"):
        find_assets(tmp_path)


def test_keys_are_kept_over_restarts_in_a_file_for_the_owner_alone(layout: Layout) -> None:
    first = remember_keys(layout)
    assert first.tenant == ""
    write_env_file(layout, Keys(first.admin, "fk-tenant"))
    assert stat.S_IMODE(layout.env_file.stat().st_mode) == 0o600
    assert remember_keys(layout) == Keys(first.admin, "fk-tenant")
    assert "OPENAI_BASE_URL=http://127.0.0.1:8080/v1" in layout.env_file.read_text()


def test_the_demos_prices_and_policies_are_valid_and_price_both_tiers() -> None:
    documents: Any = read_documents(ROOT / "deploy" / "demo")
    book = PriceBook.parse(documents["prices/current"])
    assert book.deployment("edge", "edge-site", "m") is not None
    assert book.deployment("cloud", "cloud-a", "m") is not None
    assert book.link_nano_usd_per_gb("cloud-a", "edge-site") == 90_000_000
    assert book.link_nano_usd_per_gb("cloud-a", "cloud-a") == 0
    for key, content in documents.items():
        kind, _, name = key.partition("/")
        if kind == "policies":
            parse_policy(name, content)


def test_a_document_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "current.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"current\.json is not JSON"):
        read_documents(tmp_path)


def make_exchange() -> tuple[router_pb2.Decision, router_pb2.Result]:
    line = common_pb2.CostLine(kind=common_pb2.COST_KIND_COMPUTE, amount_nano_usd=7)
    decision = router_pb2.Decision(
        chosen=router_pb2.Candidate(
            model="edge-small", tier=common_pb2.TIER_EDGE, region="edge-site"
        ),
        rejected=[
            router_pb2.Candidate(
                model="cloud-large",
                tier=common_pb2.TIER_CLOUD,
                region="cloud-a",
                estimated_nano_usd=99,
                reason="dearer",
            )
        ],
        reason="cheapest",
    )
    result = router_pb2.Result(
        usage=common_pb2.Usage(input_token_count=3, output_token_count=4),
        cost_lines=[line],
        total_nano_usd=7,
        trace_id="ab" * 16,
        latency_ms=12,
    )
    return decision, result


def test_a_prompt_gives_the_same_record_over_http_and_grpc() -> None:
    decision, result = make_exchange()
    body = ChatReplies("r1", 0).whole(
        router_pb2.CompleteResponse(text="Answer: 2", decision=decision, result=result),
        logprobs=False,
    )
    over_http = record_http(PROMPT, json.loads(json.dumps(body)))
    over_grpc = record_grpc(PROMPT, "Answer: 2", decision, result)
    assert over_http == replace(over_grpc, interface="http")
    assert over_grpc.correct
    assert over_grpc.rejected[0].reason == "dearer"


def test_the_report_holds_one_object_per_prompt(tmp_path: Path) -> None:
    record = record_grpc(PROMPT, "Answer: 3", *make_exchange())
    write_records(tmp_path / "run.json", [record])
    (entry,) = json.loads((tmp_path / "run.json").read_text())
    assert entry["cost_lines"] == [{"kind": "compute", "nano_usd": 7}]
    assert entry["correct"] is False
    assert entry["total_nano_usd"] == 7
    assert entry.keys() == asdict(record).keys()


def test_a_record_reads_well_at_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    record: PromptRecord = record_grpc(PROMPT, "Answer: 2", *make_exchange())
    console = make_console()
    show_record(console, 1, 12, record)
    show_sum(console, [record])
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= 100
    for text in (
        "Answer: 2",
        "edge-small",
        "$0.000000007 = compute $0.000000007",
        "cloud-large",
        "dearer",
    ):
        assert text in shown
