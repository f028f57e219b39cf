"""Pointers for llama.cpp to the memory of numpy's arrays."""

from __future__ import annotations

import ctypes
from typing import Any

from numpy.typing import NDArray


def point_to(array: NDArray[Any], kind: Any) -> Any:
    """A pointer to the array's values, of the ctypes type `kind`. It does not keep the array alive.

    Made from the address as a number: what `array.ctypes` makes of it refers to itself and to the array, which would
    stay until the garbage collector comes, and the state of a slot has megabytes.
    """
    address = array.__array_interface__["data"][0]
    return ctypes.cast(address, ctypes.POINTER(kind))
