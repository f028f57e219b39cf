"""Chat templates of models: Jinja, rendered in a sandbox because they come with a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from farthing.kit.errors import FailedPrecondition, InvalidArgument


class Message(Protocol):
    """What a template sees of one message of a conversation."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


class ChatTemplate:
    """A compiled template. Rendering is thread-safe."""

    def __init__(self, source: str, *, bos_text: str, eos_text: str) -> None:
        """Raises FailedPrecondition when the source is not a valid template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise FailedPrecondition(
                f"The model's chat template cannot be read: {error}. Use a model with a valid"
                " Jinja template.",
                reason="CHAT_TEMPLATE_INVALID",
            ) from error
        self._specials = {"bos_token": bos_text, "eos_token": eos_text}

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation. Raises InvalidArgument when the template refuses it."""
        try:
            return self._template.render(
                messages=[{"role": one.role, "content": one.content} for one in messages],
                add_generation_prompt=True,
                **self._specials,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidArgument(
                f"The model's chat template refuses these messages: {error}. Change the order or"
                " the roles of the messages.",
                field="input.messages",
                reason="CHAT_TEMPLATE_REFUSED",
            ) from error


def _refuse(message: str) -> None:
    raise TemplateError(message)
