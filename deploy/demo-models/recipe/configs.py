"""The shapes, seeds and training settings of the two models."""

from __future__ import annotations

from dataclasses import dataclass

SEED = 20261122
FALL_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class Shape:
    """The geometry of a Llama-architecture model, as config.json names it."""

    hidden_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    intermediate_size: int
    head_dim: int = 32
    vocabulary_size: int = 1024
    context_length: int = 1024
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5

    @property
    def query_size(self) -> int:
        return self.head_count * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.kv_head_count * self.head_dim

    @property
    def params_count(self) -> int:
        """Weights of the whole model, input and output embeddings counted apart."""
        attention = self.hidden_size * 2 * (self.query_size + self.kv_size)
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = 2 * self.vocabulary_size * self.hidden_size
        return self.layer_count * block + tables + self.hidden_size


@dataclass(frozen=True, slots=True)
class Training:
    """How one model is trained.

    `seconds` is the wall time on one core of a CPU. The learning rate warms up, stays, and falls
    to nothing along a line over the last FALL_RATIO of that time.
    """

    seconds: float
    peak_learning_rate: float
    batch_token_count: int = 8_192
    warmup_step_count: int = 100
    weight_decay: float = 0.05
    gradient_clip: float = 1.0


@dataclass(frozen=True, slots=True)
class Model:
    """One of the two demo models."""

    name: str
    shape: Shape
    training: Training


MODELS = {
    model.name: model
    for model in (
        Model("edge-small", Shape(64, 2, 2, 2, 192), Training(1_300, 4e-3)),
        Model("cloud-large", Shape(192, 4, 6, 2, 384), Training(2_600, 3e-3)),
    )
}
