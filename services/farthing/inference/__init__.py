"""What the edge and the cloud tier share: the engine seam, generation rules, metering and the servicer."""

from __future__ import annotations
