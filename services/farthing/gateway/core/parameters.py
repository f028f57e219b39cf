"""Every request parameter of OpenAI's two completion calls, and what becomes of it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from farthing.kit.errors import InvalidArgument

Treatment = Literal["honoured", "refused", "no effect"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """How one parameter is treated. `harmless` are values that a refused parameter may have all the same."""

    treatment: Treatment
    note: str
    harmless: tuple[Any, ...] = ()


def _honoured(note: str) -> Parameter:
    return Parameter("honoured", note)


def _refused(note: str, *harmless: Any) -> Parameter:
    return Parameter("refused", note, harmless)


def _no_effect(note: str) -> Parameter:
    return Parameter("no effect", note)


_SHARED: Mapping[str, Parameter] = {
    "model": _honoured('A model\'s name, or "auto" for the cheapest that meets the limits.'),
    "max_tokens": _honoured("Most tokens to generate."),
    "temperature": _honoured("0 to 2; 0 is greedy."),
    "top_p": _honoured("Above 0, up to 1."),
    "seed": _honoured("Same seed and same model artefact, same answer."),
    "stop": _honoured("One text or a list of up to 8."),
    "frequency_penalty": _honoured("-2 to 2."),
    "presence_penalty": _honoured("-2 to 2."),
    "stream": _honoured("Server-sent events."),
    "stream_options": _honoured(
        "`include_usage` is honoured; `include_obfuscation` has no effect."
    ),
    "n": _refused("One answer a request; 1 is accepted.", 1),
    "logit_bias": _refused("Not supported; an empty object is accepted.", {}),
    "user": _no_effect("Tenants are told apart by API key alone."),
    "top_k": _honoured("Not OpenAI's: keep the k likeliest tokens."),
    "min_p": _honoured(
        "Not OpenAI's: keep tokens with this share of the likeliest one's chance."
    ),
    "farthing": _honoured("Not OpenAI's: routing wishes, see below."),
}

CHAT: Mapping[str, Parameter] = {
    **_SHARED,
    "messages": _honoured(
        "Roles `system`, `developer` (as system), `user`, `assistant`; text only."
    ),
    "max_completion_tokens": _honoured("The same as `max_tokens`."),
    "response_format": _honoured(
        "`text`, `json_object`, `json_schema` (always strict); the last two need a capable model."
    ),
    "logprobs": _honoured("Log-probability of each token."),
    "top_logprobs": _honoured("0 to 20; needs `logprobs`."),
    "prompt_cache_key": _honoured(
        "Names the conversation: its requests prefer the instance that holds their prefix."
    ),
    "service_tier": _honoured(
        "`flex` queues behind, `priority` before the others; `auto` and `default` between."
    ),
    "tools": _refused("Models here do not call tools; an empty list is accepted.", []),
    "tool_choice": _refused("See `tools`; `none` and `auto` are accepted.", "none", "auto"),
    "functions": _refused("See `tools`.", []),
    "function_call": _refused("See `tools`.", "none", "auto"),
    "parallel_tool_calls": _no_effect("There are no tool calls."),
    "audio": _refused("Text only."),
    "modalities": _refused('Text only; `["text"]` is accepted.', ["text"]),
    "web_search_options": _refused("Not supported."),
    "moderation": _refused("Not supported."),
    "reasoning_effort": _refused("Not supported; `none` is accepted.", "none"),
    "verbosity": _refused("Not supported; `medium` is accepted.", "medium"),
    "store": _refused("Answers are not stored for later calls; false is accepted.", False),
    "prediction": _no_effect("Only ever a hint for speed."),
    "metadata": _no_effect("Not kept."),
    "safety_identifier": _no_effect("Tenants are told apart by API key alone."),
    "prompt_cache_retention": _no_effect("Prefixes are kept as room allows."),
    "prompt_cache_options": _no_effect("Prefixes are kept as room allows."),
}

COMPLETION: Mapping[str, Parameter] = {
    **_SHARED,
    "prompt": _honoured("One text; used without a chat template."),
    "logprobs": _honoured("0 to 5 alternatives per token."),
    "best_of": _refused("One answer a request; 1 is accepted.", 1),
    "echo": _refused("Not supported; false is accepted.", False),
    "suffix": _refused("Not supported; an empty text is accepted.", ""),
}


def check_known(body: Mapping[str, Any], table: Mapping[str, Parameter]) -> None:
    """InvalidArgument naming the first parameter that is unknown, or refused at the value it has.

    Null is the same as absent everywhere.
    """
    for name, value in body.items():
        parameter = table.get(name)
        if parameter is None:
            raise InvalidArgument(
                f"unrecognized request argument: {name}", field=name, reason="UNKNOWN_PARAMETER"
            )
        if parameter.treatment != "refused" or value is None:
            continue
        if not any(
            value == harmless and type(value) is type(harmless)
            for harmless in parameter.harmless
        ):
            raise InvalidArgument(
                f"{name} is not supported: {parameter.note}",
                field=name,
                reason="UNSUPPORTED_PARAMETER",
            )
