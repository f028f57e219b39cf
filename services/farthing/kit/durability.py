"""How much a write must survive before it counts as done."""

from __future__ import annotations

from typing import Literal

from farthing.kit.settings import SettingsError

# normal: the death of the process, for the kernel has it. full: the loss of power too, for an fsync.
Synchronous = Literal["normal", "full"]


def parse_synchronous(text: str, *, env: str) -> Synchronous:
    """The durability that the setting `env` asks for. SettingsError on an unknown word."""
    if text == "normal":
        return "normal"
    if text == "full":
        return "full"
    raise SettingsError(f"{env}={text!r} is unknown; use normal or full", env=env)
