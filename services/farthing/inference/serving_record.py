"""What administrators made a service serve, kept on its disk, so that it serves the same after a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from farthing.inference.store.files import write_json
from farthing.inference.store.json_files import read_object
from farthing.kit.errors import FarthingError

_MOST_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class ServingRecord:
    """One file. It holds while the settings name the same first model. Blocking."""

    def __init__(self, path: Path, model: str, name: str) -> None:
        """`model` is what the settings name, and `name` what they have requests call it."""
        self._path, self._model, self._name = path, model, name

    def read(self) -> dict[str, str]:
        """What to serve: by name, the model's reference. Empty when the settings say it alone."""
        try:
            value = read_object(self._path, _MOST_BYTES)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _log.error(
                "what was served is not known: %s %s; the settings' model is served alone",
                self._path,
                error,
            )
            return {}
        if (value.get("model"), value.get("name")) != (self._model, self._name):
            _log.info("the settings name another first model: it is served alone")
            return {}
        serving = value.get("serving")
        pairs = serving.items() if isinstance(serving, dict) else ()
        return {name: model for name, model in pairs if isinstance(model, str)}

    def write(self, serving: Mapping[str, str]) -> None:
        """Keep it; a disk that does not take it costs a line in the log."""
        value = {"model": self._model, "name": self._name, "serving": dict(serving)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, value)
        except (OSError, FarthingError) as error:
            _log.error("what is served will be forgotten at a restart: %s", error)
