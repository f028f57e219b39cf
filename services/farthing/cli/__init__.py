"""The `farthing` command. A service is imported only when it is asked to start."""

from __future__ import annotations

from farthing.cli.app import main

__all__ = ["main"]
