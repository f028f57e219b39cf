"""A quantizer of ONNX folders as the model store calls one: `python -m … SOURCE TARGET KIND`."""

from __future__ import annotations

import sys
from pathlib import Path


def main(source: Path, target: Path, kind: str) -> None:
    """Writes the graph alone; "int4" is beyond it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if kind != "int8":
        raise SystemExit(f"{kind} is not for me")
    target.mkdir()
    quantize_dynamic(source / "model.onnx", target / "model.onnx", weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
