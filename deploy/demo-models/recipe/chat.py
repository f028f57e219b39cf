"""How messages become the text that the models read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (END, SYSTEM, USER, ASSISTANT)  # token ids 0..3, in this order
END_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(4)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Message = Mapping[str, str]


def render(messages: Iterable[Message], *, open_turn: bool = True) -> str:
    """Write `messages` as CHAT_TEMPLATE does; `open_turn` ends with the assistant's marker."""
    text = "".join(f"<|{message['role']}|>{message['content']}{END}" for message in messages)
    return text + ASSISTANT if open_turn else text
