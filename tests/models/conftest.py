"""Ways into the demo models' folder, whose modules are scripts and no installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "demo-models"

Load = Callable[[str], Any]


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder that holds the recipe and what it made."""
    return MODELS_FOLDER


@pytest.fixture(scope="session")
def load() -> Iterator[Load]:
    """Imports a module of the recipe by its short name."""
    sys.path.insert(0, str(MODELS_FOLDER))
    try:
        yield lambda name: importlib.import_module(f"recipe.{name}")
    finally:
        sys.path.remove(str(MODELS_FOLDER))
