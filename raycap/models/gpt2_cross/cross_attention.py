"""One cross-attention layer from text to image tokens, of any head size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from raycap.models.layers import PackedTokens, attend, merge_heads, split_heads


class CrossAttention(nn.Module):
    """Text tokens look at their image; what comes out is added to the residual stream.

    At the start it adds exactly nothing: either its output projection is zero, or a tanh gate is (Flamingo,
    https://arxiv.org/abs/2204.14198). Both at once would have zero gradient for ever.
    """

    def __init__(
        self,
        *,
        model_dim: int,
        vision_dim: int,
        heads: int,
        head_dim: int,
        start: Literal["projection", "gate"],
        norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        width = heads * head_dim
        self.norm = nn.LayerNorm(model_dim, eps=norm_epsilon)
        self.query = nn.Linear(model_dim, width)
        self.key = nn.Linear(vision_dim, width)
        self.value = nn.Linear(vision_dim, width)
        self.output = nn.Linear(width, model_dim)
        self.gate = nn.Parameter(torch.zeros(())) if start == "gate" else None
        for linear in (self.query, self.key, self.value, self.output):
            # Normalised inputs give queries, keys and values of unit variance.
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        if start == "projection":
            nn.init.zeros_(self.output.weight)

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised (batch, patches, vision_dim) -> keys and values, both (batch, heads, patches, dim)."""
        keys, values = self.key(features), self.value(features)  # (batch, patches, heads * head_dim)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def forward(self, hidden: Tensor, features: Tensor, layout: PackedTokens) -> Tensor:
        """What to add to hidden (real, model_dim), from normalised features (batch, patches, vision_dim)."""
        queries = split_heads(layout.images.spread(self.query(self.norm(hidden))), self.heads)
        attended = attend(queries, *self.project(features))  # (batch, heads, tokens, head_dim)
        output: Tensor = self.output(layout.images.collect(merge_heads(attended)))  # (real, model_dim)
        return output if self.gate is None else output * self.gate.tanh()

    def weights(self, hidden: Tensor, features: Tensor, layout: PackedTokens) -> Tensor:
        """How `forward`'s tokens look at their image: (real, heads, patches) float32, summing to 1 over patches."""
        queries = split_heads(layout.images.spread(self.query(self.norm(hidden))), self.heads)
        keys, _ = self.project(features)  # (batch, heads, patches, head_dim)
        scores = queries.float() @ keys.float().transpose(-1, -2) * self.head_dim**-0.5
        return layout.images.collect(scores.softmax(-1).transpose(1, 2))

    def opening(self) -> tuple[str, Tensor]:
        """How far the layer has opened to the image: what began at zero, by its name.

        That is the gate (its tanh), or the root mean square of the output projection.
        """
        if self.gate is not None:
            return "gate", self.gate.detach().tanh()
        return "output_rms", self.output.weight.detach().square().mean().sqrt()

    def folded_output(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the output projection with the gate multiplied in."""
        weight, bias = self.output.weight.detach(), self.output.bias.detach()
        if self.gate is None:
            return weight, bias
        gate = self.gate.detach().tanh()
        return weight * gate, bias * gate
