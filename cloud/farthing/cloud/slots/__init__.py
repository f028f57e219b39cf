"""The batch engine over ONNX Runtime: slots in memory, the runs of a step, and a slower way for other graphs."""

from __future__ import annotations
