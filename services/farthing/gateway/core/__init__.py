"""What the gateway knows of OpenAI's API, as pure functions over decoded JSON."""

from __future__ import annotations
