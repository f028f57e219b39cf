"""Reads the bodies of `/v1/chat/completions` and `/v1/completions` into one request value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from farthing.gateway.core import fields, parameters
from farthing.gateway.core.wishes import Wishes, read_wishes
from farthing.kit.errors import InvalidArgument

_TAG_LIMIT = 64
_COMPLETION_LOGPROBS_LIMIT = 5
_TOP_LOGPROBS_LIMIT = 20
_INT64_LIMIT = 2**63 - 1
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SERVICE_TIERS = {"auto": "", "default": "", "flex": "batch", "priority": "interactive"}
# What clients send back of an earlier answer; without a value these say nothing.
_EMPTY_MESSAGE_FIELDS = frozenset(
    {"tool_calls", "function_call", "refusal", "audio", "annotations", "reasoning_content"}
)


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A request for text, checked as far as OpenAI's API goes. None is "not given"."""

    model: str
    messages: tuple[tuple[str, str], ...] = ()  # (role, text)
    prompt: str = ""
    max_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    stream: bool = False
    include_usage: bool = False
    wishes: Wishes = Wishes()  # noqa: RUF009  frozen


def read_chat(body: Mapping[str, Any], headers: Mapping[str, str]) -> TextRequest:
    """A chat request. InvalidArgument names the first parameter that is wrong."""
    parameters.check_known(body, parameters.CHAT)
    wishes = read_wishes(headers, body)
    tier = fields.take_choice(body, "service_tier", _SERVICE_TIERS, "")
    conversation = _read_cache_key(body)
    max_tokens = fields.take_count(body, "max_completion_tokens", 1)
    old_max_tokens = fields.take_count(body, "max_tokens", 1)
    top_logprobs = fields.take_count(body, "top_logprobs", 0, _TOP_LOGPROBS_LIMIT) or 0
    logprobs = fields.take_flag(body, "logprobs")
    if top_logprobs and not logprobs:
        raise InvalidArgument("top_logprobs needs logprobs: true", field="top_logprobs")
    return _finish(
        body,
        TextRequest(
            model=_read_model(body),
            messages=_read_messages(body),
            max_tokens=max_tokens or old_max_tokens or 0,
            json_schema=_read_response_format(body),
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            wishes=replace(
                wishes,
                priority=wishes.priority or tier,
                conversation=wishes.conversation or conversation,
            ),
        ),
    )


def read_completion(body: Mapping[str, Any], headers: Mapping[str, str]) -> TextRequest:
    """A request of the older form. InvalidArgument names the first parameter that is wrong."""
    parameters.check_known(body, parameters.COMPLETION)
    logprobs = fields.take_count(body, "logprobs", 0, _COMPLETION_LOGPROBS_LIMIT)
    return _finish(
        body,
        TextRequest(
            model=_read_model(body),
            prompt=_read_prompt(body),
            max_tokens=fields.take_count(body, "max_tokens", 1) or 0,
            logprobs=logprobs is not None,
            top_logprobs=logprobs or 0,
            wishes=read_wishes(headers, body),
        ),
    )


def _finish(body: Mapping[str, Any], request: TextRequest) -> TextRequest:
    stream = fields.take_flag(body, "stream")
    options = fields.take_object(body, "stream_options")
    if options and not stream:
        raise InvalidArgument("stream_options needs stream: true", field="stream_options")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise InvalidArgument(
                f"unrecognized request argument: stream_options.{name}",
                field=f"stream_options.{name}",
            )
    return replace(
        request,
        temperature=fields.take_number(body, "temperature", 0, 2),
        top_p=fields.take_number(body, "top_p", 0, 1),
        top_k=fields.take_count(body, "top_k", 0),
        min_p=fields.take_number(body, "min_p", 0, 1),
        seed=fields.take_count(body, "seed", -_INT64_LIMIT - 1, _INT64_LIMIT),
        frequency_penalty=fields.take_number(body, "frequency_penalty", -2, 2),
        presence_penalty=fields.take_number(body, "presence_penalty", -2, 2),
        stop=fields.take_texts(body, "stop"),
        stream=stream,
        include_usage=fields.take_flag(options, "include_usage"),
    )


def _read_model(body: Mapping[str, Any]) -> str:
    model = fields.take_text(body, "model")
    if not model:
        raise InvalidArgument(
            'you must provide a model parameter: a name from /v1/models, or "auto"',
            field="model",
        )
    return "" if model == "auto" else model


def _read_cache_key(body: Mapping[str, Any]) -> str:
    key = fields.take_text(body, "prompt_cache_key")
    if len(key) <= _TAG_LIMIT and key.isprintable():
        return key
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read_messages(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise fields.wrong("messages", messages, "a list of at least one message")
    return tuple(
        _read_message(message, f"messages[{place}]") for place, message in enumerate(messages)
    )


def _read_message(message: Any, path: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise fields.wrong(path, message, "an object with role and content")
    role = message.get("role")
    if role not in _ROLES:
        raise fields.wrong(f"{path}.role", role, "system, developer, user or assistant")
    for name, value in message.items():
        if name in ("role", "content", "name"):
            continue
        if name not in _EMPTY_MESSAGE_FIELDS or value:
            raise InvalidArgument(
                f"{path}.{name} is not supported; send role and content",
                field=f"{path}.{name}",
                reason="UNSUPPORTED_PARAMETER",
            )
    content = message.get("content")
    if isinstance(content, str):
        return _ROLES[role], content
    if not isinstance(content, list):
        raise fields.wrong(f"{path}.content", content, "a text or a list of text parts")
    texts = [_read_part(part, f"{path}.content[{place}]") for place, part in enumerate(content)]
    return _ROLES[role], "".join(texts)


def _read_part(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else part
        raise InvalidArgument(
            f"{path} is of type {kind!r}; models here take text parts only",
            field=path,
            reason="UNSUPPORTED_PARAMETER",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise fields.wrong(f"{path}.text", text, "a text")
    return text


def _read_prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise fields.wrong(
            "prompt", prompt, "one text; several prompts or token ids are not supported"
        )
    return prompt


def _read_response_format(body: Mapping[str, Any]) -> str:
    """The JSON schema that the answer must match; empty for free text."""
    shape = fields.take_object(body, "response_format")
    kind = shape.get("type", "text")
    if kind == "text":
        return ""
    if kind == "json_object":
        return '{"type":"object"}'
    if kind != "json_schema":
        raise fields.wrong("response_format.type", kind, "text, json_object or json_schema")
    schema = fields.take_object(shape, "json_schema").get("schema")
    if not isinstance(schema, dict):
        raise fields.wrong("response_format.json_schema.schema", schema, "a JSON Schema object")
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
