"""The same function as transformers' own GPT-2 with cross-attention, for its `generate()` and its pipelines.

That model has one shape of heads for both attentions, as wide together as the model, and takes features of that
width. So small heads are padded with zeros and their queries scaled up, the gate and the feature norm's affine part
are multiplied into projections, and where heads or features do not fit, the whole model is laid into a wider one.
What cannot be folded is the feature norm's normalisation: features come normalised (`transformers_features`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raycap.models.gpt2_cross.cross_attention import CrossAttention
from raycap.models.gpt2_cross.model import Gpt2Cross
from raycap.models.gpt2_cross.weights import effective_linear


@dataclass(frozen=True)
class Shape:
    """Heads of the exported model, and how wide the model is within it."""

    heads: int
    head_dim: int
    inner: int
    """Width of the model itself; the rest of `width` is zeros."""

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def share(self) -> float:
        """Variance of a centred vector over `width`, as a share of that over `inner`."""
        return self.inner / self.width

    def spread(self, tensor: Tensor, *, heads: int) -> Tensor:
        """(..., heads * dim) -> (..., width): zeros in each head, then heads of zeros."""
        split = tensor.unflatten(-1, (heads, -1))  # type: ignore[no-untyped-call]
        return F.pad(split, (0, self.head_dim - split.shape[-1], 0, self.heads - heads)).flatten(-2)

    def residual(self, tensor: Tensor) -> Tensor:
        """(..., inner) -> (..., width) of what is added to the residual stream.

        In a wider model it is centred: only norms read that stream, and they subtract the mean, which zeros beside
        it would change.
        """
        if self.width == self.inner:
            return tensor
        return self.wide(tensor - tensor.mean(-1, keepdim=True))

    def wide(self, tensor: Tensor) -> Tensor:
        """(..., n) -> (..., width), zeros after the n."""
        return F.pad(tensor, (0, self.width - tensor.shape[-1]))


def shape_for(model: Gpt2Cross) -> Shape:
    """The smallest shape that holds both attentions' heads and the features."""
    sizes, cross = model.gpt2.config, next(iter(model.cross))
    assert isinstance(cross, CrossAttention)
    head_dim = max(sizes.n_embd // sizes.n_head, cross.head_dim)
    heads = max(sizes.n_head, cross.heads, -(-model.vision_dim // head_dim))
    return Shape(heads, head_dim, sizes.n_embd)


@torch.no_grad()
def to_transformers(model: Gpt2Cross) -> Any:
    """A GPT2LMHeadModel with add_cross_attention=True and the same logits, in float32 and eval mode.

    Give it `transformers_features(model, features)` as encoder_hidden_states.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    shape, sizes = shape_for(model), model.gpt2.config
    widened = shape.width > shape.inner
    settings = sizes.to_dict()
    settings.update(add_cross_attention=True, is_decoder=True, dtype="float32", architectures=None)
    settings.update(bos_token_id=model.tokenizer.start_id, eos_token_id=model.tokenizer.end_id)
    settings.update(n_embd=shape.width, n_head=shape.heads, n_inner=sizes.n_inner or 4 * sizes.n_embd)
    # The variance of a centred vector between zeros is smaller, and so the epsilon beside it.
    settings["layer_norm_epsilon"] = sizes.layer_norm_epsilon * shape.share
    # The embedding is then centred and the head is not.
    settings["tie_word_embeddings"] = sizes.tie_word_embeddings and not widened
    exported = GPT2LMHeadModel(GPT2Config.from_dict(settings)).eval()
    source, target = model.gpt2.transformer, exported.transformer
    for name in ("wte", "wpe"):
        getattr(target, name).weight.copy_(shape.residual(getattr(source, name).weight.float()))
    if not settings["tie_word_embeddings"]:
        exported.lm_head.weight.copy_(shape.wide(model.gpt2.lm_head.weight.float()))
    _copy_norm(source.ln_f, target.ln_f, shape)
    for own, cross, block in zip(source.h, model.cross, target.h, strict=True):
        _copy_block(own, block, shape, heads=sizes.n_head)
        _copy_cross(cross, block, shape, norm=model.feature_norm)
    return exported


def transformers_features(model: Gpt2Cross, features: Tensor) -> Tensor:
    """Features (batch, patches, vision_dim) as the exported model takes them: (batch, patches, its width)."""
    normed = F.layer_norm(features.float(), (model.vision_dim,), eps=model.feature_norm.eps)
    return shape_for(model).wide(normed)


def _copy_norm(source: Any, target: Any, shape: Shape) -> None:
    target.weight.copy_(shape.wide(source.weight * shape.share**0.5))
    target.bias.copy_(shape.wide(source.bias))


def _copy_linear(target: Any, weight: Tensor, bias: Tensor) -> None:
    """A Conv1D's weight is (in, out); missing inputs are zeros."""
    missing = target.weight.shape[0] - weight.shape[1]
    target.weight.copy_(F.pad(weight.T, (0, 0, 0, missing)))
    target.bias.copy_(bias)


def _copy_block(source: Any, target: Any, shape: Shape, *, heads: int) -> None:
    """Self-attention, MLP and their norms, adapters added."""
    for norm in ("ln_1", "ln_2"):
        _copy_norm(getattr(source, norm), getattr(target, norm), shape)
    weight, bias = effective_linear(source.attn.c_attn)  # (3 * inner, inner)
    scale = (shape.head_dim * heads / shape.inner) ** 0.5  # of queries: see _copy_cross
    parts = zip(weight.T.chunk(3, dim=-1), bias.chunk(3), (scale, 1.0, 1.0), strict=True)
    wide = [(shape.spread(w * by, heads=heads), shape.spread(b * by, heads=heads)) for w, b, by in parts]
    _copy_linear(target.attn.c_attn, torch.cat([w for w, _ in wide], -1).T, torch.cat([b for _, b in wide]))
    weight, bias = effective_linear(source.attn.c_proj)
    output = shape.residual(shape.spread(weight, heads=heads).T)
    _copy_linear(target.attn.c_proj, output.T, shape.residual(bias))
    _copy_linear(target.mlp.c_fc, *effective_linear(source.mlp.c_fc))
    weight, bias = effective_linear(source.mlp.c_proj)
    _copy_linear(target.mlp.c_proj, shape.residual(weight.T).T, shape.residual(bias))


def _copy_cross(cross: Any, block: Any, shape: Shape, *, norm: Any) -> None:
    """Cross-attention; the feature norm's scale and shift go into keys and values."""
    attention = block.crossattention
    _copy_norm(cross.norm, block.ln_cross_attn, shape)

    def spread(weight: Tensor, bias: Tensor, *, by: float = 1.0) -> tuple[Tensor, Tensor]:
        wide = shape.spread(weight.T * by, heads=cross.heads)  # (in, width)
        return wide.T, shape.spread(bias * by, heads=cross.heads)

    # Scores are divided by the square root of that model's head width there and of ours here.
    scale = (shape.head_dim / cross.head_dim) ** 0.5
    _copy_linear(attention.q_attn, *spread(cross.query.weight, cross.query.bias, by=scale))
    folded = [
        spread(linear.weight * norm.weight, linear.bias + linear.weight @ norm.bias)
        for linear in (cross.key, cross.value)
    ]
    weights, biases = zip(*folded, strict=True)
    _copy_linear(attention.c_attn, torch.cat(weights), torch.cat(biases))
    weight, bias = cross.folded_output()  # (model_dim, heads * head_dim)
    output = shape.residual(shape.spread(weight, heads=cross.heads).T)
    _copy_linear(attention.c_proj, output.T, shape.residual(bias))
