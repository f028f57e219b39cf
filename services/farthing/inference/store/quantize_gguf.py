"""Quantizes a GGUF file with llama.cpp, in a process of its own: a crash of the library ends here.

Run as `python -m farthing.inference.store.quantize_gguf SOURCE TARGET FILE_TYPE THREADS`. Each line it prints is a JSON
object: {"tensor", "done_count", "total_count"} for every tensor, in the end {"status", "tool", "error"}.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from typing import Any

# As llama.cpp logs each tensor it turns to: "[  12/ 291] blk.0.attn_k.weight - [...".
_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
_ERROR_LEVEL = 4


def main(source: str, target: str, file_type: int, thread_count: int) -> int:
    """0 when llama.cpp is done, 1 when it refuses."""
    import llama_cpp

    errors: list[str] = []

    def hear(level: int, text: bytes, data: Any) -> None:
        line = text.decode(errors="replace").strip()
        if level == _ERROR_LEVEL and line:
            errors.append(line)
        if found := _TENSOR_LINE.match(line):
            done, total, tensor = int(found[1]), int(found[2]), found[3]
            _say({"tensor": tensor, "done_count": done, "total_count": total})

    callback = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = thread_count
    status = llama_cpp.llama_model_quantize(
        source.encode(), target.encode(), ctypes.byref(params)
    )
    tool = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
    _say({"status": status, "tool": tool, "error": errors[0] if errors else ""})
    return 0 if status == 0 else 1


def _say(value: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # nobody waits for the result any more; an exception would be lost in the library
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
