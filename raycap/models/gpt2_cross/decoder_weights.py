"""GPT-2 with cross-attention as plain matrices, ready to be laid out for decoding.

Adapters and gates are folded in, and attention's scale into the queries. Two models come in: raycap's own, and
transformers' GPT2LMHeadModel with `add_cross_attention`, against which the decoder is checked and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raycap.models.gpt2_cross.weights import effective_linear

if TYPE_CHECKING:
    from raycap.models.gpt2_cross.model import Gpt2Cross


@dataclass(frozen=True)
class Affine:
    """weight (out, in) and bias (out,), float32."""

    weight: Tensor
    bias: Tensor

    def scaled(self, factor: float, *, rows: int) -> Affine:
        """The first `rows` outputs multiplied by `factor`."""
        factors = torch.ones_like(self.bias)
        factors[:rows] = factor
        return Affine(self.weight * factors[:, None], self.bias * factors)


@dataclass(frozen=True)
class Norm:
    """A LayerNorm's weight and bias, float32."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> Norm:
        return cls(layer.weight.detach().float(), layer.bias.detach().float(), layer.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)

    def to(self, device: torch.device) -> Norm:
        return Norm(self.weight.to(device), self.bias.to(device), self.epsilon)


@dataclass(frozen=True)
class BlockWeights:
    """One block. Cross-attention lies between self-attention and MLP."""

    norm: Norm
    queries_keys_values: Affine  # (3 * model_dim, model_dim)
    output: Affine
    cross_norm: Norm
    cross_queries: Affine  # (cross_heads * head_dim, model_dim)
    cross_keys_values: Affine  # (2 * cross_heads * head_dim, vision_dim)
    cross_output: Affine
    mlp_norm: Norm
    mlp_in: Affine
    mlp_out: Affine


@dataclass(frozen=True)
class DecoderWeights:
    """All that decoding needs, float32 but for what is only looked up."""

    blocks: Iterator[BlockWeights]  # made one at a time: no second float32 copy of the whole model
    embeddings: Tensor  # (vocab, model_dim)
    positions: Tensor  # (positions, model_dim)
    final_norm: Norm
    head: Tensor  # (vocab, model_dim)
    feature_norm: Norm | None
    vision_dim: int
    heads: int
    cross_heads: int
    activation: str
    frozen_mlp: bool
    """Whether the MLPs are the language model's own, without adapters."""


def of_gpt2_cross(model: Gpt2Cross) -> DecoderWeights:
    """raycap's own model."""
    first: Any = model.cross[0]
    return _with_gpt2(
        model.gpt2,
        blocks=(_of_pair(block, cross, model.gpt2.config) for block, cross in _pairs(model)),
        feature_norm=Norm.of(model.feature_norm),
        vision_dim=model.vision_dim,
        cross_heads=first.heads,
        frozen_mlp=not (model.config.lora.rank and model.config.lora.mlp),
    )


def of_transformers(gpt2: Any) -> DecoderWeights:
    """transformers' GPT2LMHeadModel with `add_cross_attention`; features have GPT-2's own width."""
    return _with_gpt2(
        gpt2,
        blocks=(_of_block(block) for block in gpt2.transformer.h),
        feature_norm=None,
        vision_dim=gpt2.config.n_embd,
        cross_heads=gpt2.config.n_head,
        frozen_mlp=False,
    )


def _with_gpt2(gpt2: Any, **rest: Any) -> DecoderWeights:
    stem = gpt2.transformer
    return DecoderWeights(
        embeddings=stem.wte.weight.detach(),
        positions=stem.wpe.weight.detach(),
        final_norm=Norm.of(stem.ln_f),
        head=gpt2.lm_head.weight.detach(),
        heads=gpt2.config.n_head,
        activation=gpt2.config.activation_function,
        **rest,
    )


def _pairs(model: Gpt2Cross) -> Iterator[tuple[Any, Any]]:
    return zip(model.gpt2.transformer.h, model.cross, strict=True)


def _of_pair(block: Any, cross: Any, config: Any) -> BlockWeights:
    keys, values = _affine(cross.key), _affine(cross.value)
    width, scale = len(keys.bias), (config.n_embd // config.n_head) ** -0.5
    return BlockWeights(
        norm=Norm.of(block.ln_1),
        queries_keys_values=_gpt2_affine(block.attn.c_attn).scaled(scale, rows=config.n_embd),
        output=_gpt2_affine(block.attn.c_proj),
        cross_norm=Norm.of(cross.norm),
        cross_queries=_affine(cross.query).scaled(cross.head_dim**-0.5, rows=width),
        cross_keys_values=Affine(
            torch.cat([keys.weight, values.weight]), torch.cat([keys.bias, values.bias])
        ),
        cross_output=Affine(*(part.float() for part in cross.folded_output())),
        mlp_norm=Norm.of(block.ln_2),
        mlp_in=_gpt2_affine(block.mlp.c_fc),
        mlp_out=_gpt2_affine(block.mlp.c_proj),
    )


def _of_block(block: Any) -> BlockWeights:
    width = block.attn.embed_dim
    return BlockWeights(
        norm=Norm.of(block.ln_1),
        queries_keys_values=_gpt2_affine(block.attn.c_attn).scaled(block.attn.scaling, rows=width),
        output=_gpt2_affine(block.attn.c_proj),
        cross_norm=Norm.of(block.ln_cross_attn),
        cross_queries=_gpt2_affine(block.crossattention.q_attn).scaled(
            block.crossattention.scaling, rows=width
        ),
        cross_keys_values=_gpt2_affine(block.crossattention.c_attn),
        cross_output=_gpt2_affine(block.crossattention.c_proj),
        mlp_norm=Norm.of(block.ln_2),
        mlp_in=_gpt2_affine(block.mlp.c_fc),
        mlp_out=_gpt2_affine(block.mlp.c_proj),
    )


def _affine(layer: nn.Linear) -> Affine:
    return Affine(layer.weight.detach().float(), layer.bias.detach().float())


def _gpt2_affine(layer: Any) -> Affine:
    return Affine(*effective_linear(layer))
