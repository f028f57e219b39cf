from __future__ import annotations

import pytest

from farthing.inference.batch_backend import ChatMessage
from farthing.inference.chat_template import ChatTemplate
from farthing.kit.errors import FailedPrecondition, InvalidArgument

HELLO = [ChatMessage("user", "{{ 7 * 7 }}")]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_text="<s>", eos_text="</s>")


def test_messages_are_data_and_not_template() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m['content'] }}{% endfor %}"
    )
    assert template(source).render(HELLO) == "<s>user: {{ 7 * 7 }}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages | nothing }}",
    ],
)
def test_a_template_cannot_reach_out_of_its_sandbox(source: str) -> None:
    with pytest.raises((InvalidArgument, FailedPrecondition)):
        template(source).render(HELLO)


def test_a_refusal_tells_the_templates_own_words() -> None:
    with pytest.raises(InvalidArgument) as caught:
        template("{{ raise_exception('roles must alternate') }}").render(HELLO)
    assert caught.value.field == "input.messages"
    assert "roles must alternate" in caught.value.message


def test_a_broken_template_is_refused_at_once() -> None:
    with pytest.raises(FailedPrecondition):
        template("{% for %}")
