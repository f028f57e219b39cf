"""Every command against the real services."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

pytestmark = [pytest.mark.e2e, pytest.mark.consul]

Run = Callable[..., Result]


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_ask_streams_an_answer_and_tells_place_tokens_and_cost(run_in_suite: Run) -> None:
    result = run_in_suite("ask", "hello", "--max-tokens", "4", "--cache", "off")
    assert result.exit_code == 0, result.output
    assert "+4 tokens" in result.stderr
    assert "= compute $0.0" in result.stderr
    assert "trace " in result.stderr


def test_the_parts_of_a_cost_add_up_to_what_the_ledger_sums(run_in_suite: Run) -> None:
    answer = read(run_in_suite("ask", "sum", "--max-tokens", "5", "--task", "adding", "--json"))
    result = answer["result"]
    assert result["total_nano_usd"] > 0
    assert (
        sum(line["amount_nano_usd"] for line in result["cost_lines"])
        == result["total_nano_usd"]
    )
    request = f"request={result['request_id']}"
    spent: dict[str, Any] = {}
    while not spent.get("rows"):  # charges travel through the outbox
        spent = read(run_in_suite("spend", "--by", "task,tier", "--where", request, "--json"))
    assert spent["total_nano_usd"] == result["total_nano_usd"]
    assert spent["rows"][0]["values"] == ["adding", answer["decision"]["chosen"]["tier"]]


def test_ask_reads_standard_input_and_keeps_the_seed(run_in_suite: Run) -> None:
    options = (
        "--max-tokens",
        "6",
        "--temperature",
        "1",
        "--seed",
        "5",
        "--cache",
        "off",
        "--json",
    )
    pinned = (*options, "--residency", "edge-site")
    first = read(run_in_suite("ask", "-", *pinned, stdin="from a pipe"))
    second = read(run_in_suite("ask", "from a pipe", *pinned))
    shorter, longer = sorted((first["text"], second["text"]), key=len)
    assert shorter and longer.startswith(shorter)  # a starved machine spends a hold sooner
    assert first["decision"]["chosen"]["region"] == "edge-site"


def test_a_price_ceiling_nothing_meets_is_refused_in_one_line(run_in_suite: Run) -> None:
    result = run_in_suite("ask", "hello", "--max-cost", "0.000000001")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


def test_explain_weighs_every_instance_and_charges_nothing(run_in_suite: Run) -> None:
    decision = read(run_in_suite("explain", "hello", "--policy", "cheapest", "--json"))
    assert decision["policy"] == "cheapest"
    assert decision["hold_nano_usd"] == 0
    tiers = {decision["chosen"]["tier"], *(item["tier"] for item in decision["rejected"])}
    assert tiers == {"edge", "cloud"}
    text = run_in_suite("explain", "hello").stdout
    assert "→" in text
    assert "edge-site" in text


def test_status_shows_services_and_instances(run_in_suite: Run) -> None:
    text = run_in_suite("status").stdout
    assert "serving" in text
    view = read(run_in_suite("status", "--json"))
    assert {item["state"] for item in view["instances"]} == {"ready"}
    assert {item["region"] for item in view["instances"]} == {"edge-site", "cloud-a"}


def test_a_key_is_made_listed_used_and_revoked(
    run_in_suite: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read(
        run_in_suite(
            "keys", "create", "robot", "--organisation", "acme", "--budget", "0.01", "--json"
        )
    )
    key_id, secret = made["key"]["key_id"], made["secret"]
    assert secret.startswith("fk-")
    listed = read(run_in_suite("keys", "list", "--organisation", "acme", "--json"))
    assert key_id in {key["key_id"] for key in listed["keys"]}
    assert secret not in json.dumps(listed)
    monkeypatch.setenv("FARTHING_API_KEY", secret)
    assert run_in_suite("ask", "hi", "--max-tokens", "2").exit_code == 0
    assert run_in_suite("keys", "revoke", key_id).exit_code == 0
    refused = run_in_suite("ask", "hi", "--max-tokens", "2", "--cache", "off")
    assert refused.exit_code == 1


def test_a_budget_is_set_and_shown(run_in_suite: Run) -> None:
    run_in_suite("keys", "create", "k", "--organisation", "frugal")
    node = "organisation:frugal"
    result = run_in_suite(
        "budget", "set", node, "--budget", "1.50", "--period", "day", "--rpm", "7"
    )
    assert result.stdout.strip() == f"{node}: $1.50 a day, 7 requests/min"
    budgets = read(run_in_suite("budget", "list", node, "--json"))["budgets"]
    assert budgets[0]["limits"]["budget_nano_usd"] == 1_500_000_000
    assert "$1.50 a day" in run_in_suite("budget", "list", node).stdout


def test_models_of_both_tiers_are_listed(run_in_suite: Run) -> None:
    listed = read(run_in_suite("models", "list", "--json"))["models"]
    assert {item["info"]["format"] for item in listed} == {"gguf", "onnx"}


def test_spend_refuses_an_unknown_dimension_and_names_the_known(run_in_suite: Run) -> None:
    result = run_in_suite("spend", "--by", "colour")
    assert result.exit_code == 2
    assert "organisation" in result.output
    assert run_in_suite("spend", "--since", "1h", "--by", "tier").exit_code == 0
    assert run_in_suite("spend", "--since", "soon").exit_code == 2
