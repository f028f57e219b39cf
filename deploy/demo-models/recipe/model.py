"""The Llama architecture in plain PyTorch, with the weight names and conventions of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipe.configs import Shape
from recipe.rotary import cosine_and_sine_tables


class RmsNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding over halves, the convention of Hugging Face's Llama."""
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat((-high, low), -1) * sine


def attend(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> Tensor:
    """Scaled dot-product attention, written out.

    On a CPU in bfloat16 the compiled plain form trains twice as fast as PyTorch's flash kernel,
    whose backward pass takes half of each step at these lengths.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if is_causal:
        length = scores.shape[-1]
        hidden = torch.full((length, length), float("-inf"), device=scores.device).triu(1)
        scores = scores + hidden.to(scores.dtype)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


class Attention(nn.Module):
    """Causal attention with grouped key and value heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.q_proj = nn.Linear(size, shape.query_size, bias=False)
        self.k_proj = nn.Linear(size, shape.kv_size, bias=False)
        self.v_proj = nn.Linear(size, shape.kv_size, bias=False)
        self.o_proj = nn.Linear(shape.query_size, size, bias=False)

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, length, _ = x.shape
        shape = self.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, length, -1, shape.head_dim).transpose(1, 2)

        value = heads(self.v_proj(x))
        query = rotate(heads(self.q_proj(x)), cosine, sine).to(value.dtype)
        key = rotate(heads(self.k_proj(x)), cosine, sine).to(value.dtype)
        if past is not None:
            key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
        group = shape.head_count // shape.kv_head_count
        mixed = attend(
            query,
            key.repeat_interleave(group, 1),
            value.repeat_interleave(group, 1),
            # With a past, queries come one at a time and may look at everything.
            is_causal=past is None,
        )
        merged = mixed.transpose(1, 2).reshape(batch, length, shape.query_size)
        return self.o_proj(merged), (key, value)


class FeedForward(nn.Module):
    """The gated feed-forward block (SwiGLU)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, present = self.self_attn(self.input_layernorm(x), cosine, sine, past)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), present


class Llama(nn.Module):
    """Token ids in, logits out; `past` holds one (key, value) pair per layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layer_count))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocabulary_size, bias=False)
        cosine, sine = cosine_and_sine_tables(shape)
        self.register_buffer("cosine", torch.from_numpy(cosine), persistent=False)
        self.register_buffer("sine", torch.from_numpy(sine), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        depth_scale = (2 * self.shape.layer_count) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            spread = 0.02 if name.startswith("embed") else parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                spread *= depth_scale
            nn.init.normal_(parameter, 0.0, spread)

    def hidden_states(
        self, ids: Tensor, past: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """What the output matrix is applied to, and the keys and values so far."""
        start = past[0][0].shape[2] if past else 0
        cosine = self.cosine[start : start + ids.shape[1]]
        sine = self.sine[start : start + ids.shape[1]]
        x = self.embed_tokens(ids)
        presents = []
        for index, layer in enumerate(self.layers):
            x, present = layer(x, cosine, sine, past[index] if past else None)
            presents.append(present)
        return self.norm(x), presents

    def forward(
        self, ids: Tensor, past: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        hidden, presents = self.hidden_states(ids, past)
        return self.lm_head(hidden), presents


def exported_name(name: str) -> str:
    """A parameter's name in a Hugging Face checkpoint."""
    return name if name.startswith("lm_head") else f"model.{name}"


def export_weights(model: nn.Module) -> dict[str, Any]:
    """All weights as float16 arrays under their Hugging Face names.

    Every artefact, F32 ones too, is made from these rounded weights, so that all runtimes hold
    the same numbers.
    """
    return {
        exported_name(name): parameter.detach().float().cpu().numpy().astype("float16")
        for name, parameter in model.named_parameters()
    }


def from_weights(shape: Shape, weights: Mapping[str, Any]) -> Llama:
    """A float32 model holding `weights`, ready to be asked."""
    model = Llama(shape)
    state = {
        name: torch.from_numpy(weights[exported_name(name)].astype("float32"))
        for name, _ in model.named_parameters()
    }
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def generate_greedily(
    model: Llama, ids: list[int], end_id: int, limit_count: int
) -> tuple[list[int], float]:
    """The most likely continuation, and the least lead any choice had over the runner-up."""
    generated: list[int] = []
    past: list[tuple[Tensor, Tensor]] | None = None
    step, least_lead = ids, float("inf")
    while (
        len(generated) < limit_count and len(ids) + len(generated) < model.shape.context_length
    ):
        logits, past = model(torch.tensor([step]), past)
        top = logits[0, -1].topk(2)
        least_lead = min(least_lead, float(top.values[0] - top.values[1]))
        step = [int(top.indices[0])]
        generated += step
        if step[0] == end_id:
            break
    return generated, least_lead
