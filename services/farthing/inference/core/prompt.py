"""From a request to prompt tokens: control texts kept out of content, and what fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from farthing.inference.batch_backend import ChatMessage, TextCodec
from farthing.inference.core.request import EngineRequest
from farthing.kit.errors import InvalidArgument

DEFAULT_MAX_TOKENS = 256


def request_bytes(request: EngineRequest) -> int:
    """UTF-8 length of the prompt text a client sent."""
    texts = [request.prompt, *(message.content for message in request.messages)]
    return sum(len(text.encode()) for text in texts)


def encode_prompt(
    request: EngineRequest, codec: TextCodec, bos_ids: tuple[int, ...]
) -> list[int]:
    """The prompt's tokens, beginning with the model's `bos_ids`."""
    if request.messages:
        rendered = render_guarded(request.messages, codec.special_texts, codec.render_chat)
        tokens = [token for part in rendered for token in codec.tokenize(part, special=True)]
    else:
        tokens = codec.tokenize(request.prompt, special=False)
    if tuple(tokens[: len(bos_ids)]) == bos_ids:
        return tokens
    return [*bos_ids, *tokens]


def render_guarded(
    messages: Sequence[ChatMessage],
    special_texts: frozenset[str],
    render: Callable[[Sequence[ChatMessage]], str],
) -> list[str]:
    """The rendered conversation in parts that must be tokenised one by one.

    Content that spells a control token, such as "<|system|>", would be read as one and let a
    user speak as somebody else. Such texts are cut after their first character, and no
    part holds one that the template did not write. The parts joined are the rendered text.
    """
    contents = [message.content for message in messages]
    # A text of one character cannot be cut, and is no way to write a control token.
    risky = sorted(text for text in special_texts if len(text) > 1)
    pattern = re.compile("|".join(re.escape(text) for text in risky))
    if not risky or not any(pattern.search(content) for content in contents):
        return [render(messages)]
    mark = _unused_character(contents)
    guarded = [
        replace(message, content=_cut(message.content, pattern, mark)) for message in messages
    ]
    return [part for part in render(guarded).split(mark) if part]


def _cut(content: str, pattern: re.Pattern[str], mark: str) -> str:
    while match := pattern.search(content):
        border = match.start() + 1
        content = content[:border] + mark + content[border:]
    return content


def _unused_character(texts: Sequence[str]) -> str:
    used = set("".join(texts))
    private_use_area = range(0xE000, 0xF8FF)
    return next(character for code in private_use_area if (character := chr(code)) not in used)


def plan_token_limit(prompt_token_count: int, max_tokens: int, context_length: int) -> int:
    """How many tokens the answer may have, ≥ 1. Raises InvalidArgument when they do not fit."""
    numbers = {
        "prompt_token_count": str(prompt_token_count),
        "max_tokens": str(max_tokens),
        "context_length": str(context_length),
    }
    if prompt_token_count == 0:
        raise InvalidArgument(
            "The prompt has no tokens. Send at least one character.",
            field="input.prompt",
            reason="PROMPT_EMPTY",
        )
    room = context_length - prompt_token_count
    if room < 1:
        raise InvalidArgument(
            f"The prompt has {prompt_token_count} tokens and the model's context is"
            f" {context_length}. Shorten the prompt to at most {context_length - 1} tokens.",
            field="input",
            reason="CONTEXT_EXCEEDED",
            metadata=numbers,
        )
    if max_tokens > room:
        raise InvalidArgument(
            f"The prompt has {prompt_token_count} tokens, max_tokens asks for {max_tokens}"
            f" more, and the model's context is {context_length}. Set max_tokens to at most"
            f" {room} or shorten the prompt.",
            field="input.max_tokens",
            reason="CONTEXT_EXCEEDED",
            metadata=numbers,
        )
    return max_tokens or min(DEFAULT_MAX_TOKENS, room)
