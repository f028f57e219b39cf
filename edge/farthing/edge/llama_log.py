"""Takes llama.cpp's own log lines into ours. Imports llama_cpp."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import llama_cpp as llama

_LOGGER = logging.getLogger(__name__)
# ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before.
_ERROR_LEVEL = 4


class LibraryLog:
    """The library's log sink."""

    def __init__(self) -> None:
        self._callback = llama.llama_log_callback(self._take)
        self._last_error = ""

    def attach(self) -> None:
        """Makes the library write here; it has one sink per process.

        The library keeps the address for good, so the callback must outlive every Python
        reference to it: one reference is given away.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._callback))
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def forget(self) -> None:
        """Drops the error kept so far."""
        self._last_error = ""

    def last_error(self) -> str:
        """The first error line since `forget`: the cause; later ones follow from it."""
        return self._last_error

    def _take(self, level: int, text: bytes, _data: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        if not line or line == ".":
            return
        if level == _ERROR_LEVEL and not self._last_error:
            self._last_error = line.removeprefix("llama_model_load: ")
        # Detail to us at every level: what matters comes back as a result code and is raised,
        # and an interrupted step counts as an error there.
        _LOGGER.debug("%s", line)
