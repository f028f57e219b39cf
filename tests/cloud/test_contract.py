"""The inference contract over a real socket, with ONNX Runtime behind it."""

from __future__ import annotations

import pytest
from tests.cloud.conftest import Tiny
from tests.support.inference_contract import InferenceContract

from farthing.cloud.backend_ort import OrtBackend


class TestOrtBackend(InferenceContract):
    @pytest.fixture
    def backend(self, tiny: Tiny) -> OrtBackend:
        return OrtBackend(tiny.plan())
