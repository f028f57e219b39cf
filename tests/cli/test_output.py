"""Messages become plain values that JSON can carry without loss."""

from __future__ import annotations

from farthing.api.common.v1 import common_pb2
from farthing.api.quota.v1 import quota_pb2
from farthing.api.router.v1 import router_pb2
from farthing.cli.output import printable, to_plain


def test_whole_numbers_stay_whole_and_enums_become_words() -> None:
    line = common_pb2.CostLine(
        kind=common_pb2.COST_KIND_COMPUTE,
        amount_nano_usd=2**53 + 1,
        unit=common_pb2.COST_UNIT_US,
    )
    assert to_plain(line) == {
        "kind": "compute",
        "amount_nano_usd": 2**53 + 1,
        "quantity": 0,
        "unit": "us",
        "estimated": False,
    }


def test_what_is_unset_is_left_out_and_what_is_zero_is_not() -> None:
    plain = to_plain(quota_pb2.Limits(requests_per_minute=0))
    assert plain == {"period": "", "requests_per_minute": 0}
    assert "chosen" not in to_plain(router_pb2.Decision())


def test_nested_and_repeated_messages_are_followed() -> None:
    decision = router_pb2.Decision(
        chosen=router_pb2.Candidate(model="m", tier=common_pb2.TIER_EDGE),
        rejected=[router_pb2.Candidate(reject_reason=router_pb2.REJECT_REASON_COST)],
    )
    plain = to_plain(decision)
    assert plain["chosen"]["tier"] == "edge"
    assert plain["rejected"][0]["reject_reason"] == "cost"


def test_a_models_text_cannot_command_the_terminal() -> None:
    assert (
        printable("a\x1b[2Jb\n\tc\x07")
        == "a\N{REPLACEMENT CHARACTER}[2Jb\n\tc\N{REPLACEMENT CHARACTER}"
    )
