"""Makes llama.cpp give a running step up, from any thread. Imports llama_cpp."""

from __future__ import annotations

import ctypes

import llama_cpp as llama


class StopFlag:
    """A flag that llama.cpp reads between the parts of a step, without Python in between.

    A Python callback would need the interpreter's lock hundreds of times per step. The C
    library's `strlen` on a byte and a zero does the same reading: its result, 0 or 1, is the flag.
    """

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        assert strlen is not None
        self.callback = llama.ggml_abort_callback(strlen)
        self.address = ctypes.addressof(self._bytes)

    @property
    def is_raised(self) -> bool:
        """Whether steps give up."""
        return self._bytes[0] != b"\x00"

    def raise_(self) -> None:
        """Makes a running step, and every later one, give up."""
        self._bytes[0] = b"\x01"

    def lower(self) -> None:
        """Lets steps run again."""
        self._bytes[0] = b"\x00"
