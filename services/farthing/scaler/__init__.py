"""Plans replicas from forecasts, load and prices. Holds its contract (farthing.api.scaler.v1), no code yet."""

from __future__ import annotations
