"""The same function as transformers' own GPT-2 with cross-attention, for its `generate()` and its pipelines.

That model normalises no image features and has one head size for both attentions, so the feature norm stays
outside (`transformers_features`), small heads are padded with zeros and their queries scaled up, and the gate
is multiplied into the output projection.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raycap.models.gpt2_cross.cross_attention import CrossAttention
from raycap.models.gpt2_cross.model import Gpt2Cross
from raycap.models.gpt2_cross.weights import effective_linear


@torch.no_grad()
def to_transformers(model: Gpt2Cross) -> Any:
    """A GPT2LMHeadModel with add_cross_attention=True and the same logits, in float32 and eval mode.

    Give it `transformers_features(model, features)` as encoder_hidden_states.

    Raises:
        ValueError: sizes that transformers' GPT-2 cannot express.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    check_expressible(model)
    settings = model.gpt2.config.to_dict()
    settings.update(add_cross_attention=True, dtype="float32")
    settings.update(bos_token_id=model.tokenizer.start_id, eos_token_id=model.tokenizer.end_id)
    exported = GPT2LMHeadModel(GPT2Config.from_dict(settings)).eval()
    source, target = model.gpt2.transformer, exported.transformer
    for name in ("wte", "wpe", "ln_f"):
        _copy_module(getattr(source, name), getattr(target, name))
    exported.lm_head.weight.copy_(model.gpt2.lm_head.weight)
    for own, cross, block in zip(source.h, model.cross, target.h, strict=True):
        _copy_block(own, block)
        _copy_cross(cross, block)
    return exported


def transformers_features(model: Gpt2Cross, features: Tensor) -> Tensor:
    """Features (batch, patches, vision_dim) as the exported model takes them: (batch, patches, model_dim)."""
    normed = model.normalise(features)
    return F.pad(normed, (0, model.gpt2.config.n_embd - model.vision_dim))


def check_expressible(model: Gpt2Cross) -> None:
    """Refuse what has no counterpart there.

    Raises:
        ValueError: more or wider heads than GPT-2's own, or features wider than the model.
    """
    sizes = model.gpt2.config
    head_dim = sizes.n_embd // sizes.n_head
    cross = next(iter(model.cross))
    assert isinstance(cross, CrossAttention)
    if cross.heads > sizes.n_head or cross.head_dim > head_dim:
        raise ValueError(
            f"transformers' GPT-2 has one shape of heads, here {sizes.n_head} of {head_dim}: cross-attention "
            f"with {cross.heads} heads of {cross.head_dim} does not fit; train fewer or smaller ones"
        )
    if model.vision_dim > sizes.n_embd:
        raise ValueError(
            f"transformers' GPT-2 takes features of its own width, {sizes.n_embd}; those of this model have "
            f"{model.vision_dim}, more than padding with zeros can carry"
        )


def _copy_module(source: Any, target: Any) -> None:
    for name, parameter in source.named_parameters():
        target.get_parameter(name).copy_(parameter)


def _copy_block(source: Any, target: Any) -> None:
    """Self-attention, MLP and their norms, adapters added."""
    for norm in ("ln_1", "ln_2"):
        _copy_module(getattr(source, norm), getattr(target, norm))
    for part, name in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
        weight, bias = effective_linear(getattr(getattr(source, part), name))
        conv = getattr(getattr(target, part), name)
        conv.weight.copy_(weight.T)
        conv.bias.copy_(bias)


def _copy_cross(cross: Any, block: Any) -> None:
    """Cross-attention: Conv1D weights are (in, out), its heads side by side in the output."""
    attention, wide = block.crossattention, block.crossattention.head_dim
    _copy_module(cross.norm, block.ln_cross_attn)

    def padded(tensor: Tensor) -> Tensor:
        """(..., heads * head_dim) -> (..., all heads * wide): zeros in each head, then heads of zeros."""
        split = tensor.unflatten(-1, (cross.heads, cross.head_dim))  # type: ignore[no-untyped-call]
        filled = F.pad(split, (0, wide - cross.head_dim, 0, attention.num_heads - cross.heads))
        return filled.flatten(-2)

    # Scores are divided by sqrt(wide) there and by sqrt(head_dim) here.
    scale = (wide / cross.head_dim) ** 0.5
    attention.q_attn.weight.copy_(padded(cross.query.weight.T * scale))
    attention.q_attn.bias.copy_(padded(cross.query.bias * scale))
    missing = (
        attention.embed_dim - cross.key.in_features
    )  # features narrower than the model: rows that meet zeros
    for begin, linear in ((0, cross.key), (attention.split_size, cross.value)):
        columns = slice(begin, begin + attention.split_size)
        attention.c_attn.weight[:, columns] = F.pad(padded(linear.weight.T), (0, 0, 0, missing))
        attention.c_attn.bias[columns] = padded(linear.bias)
    weight, bias = cross.folded_output()  # (model_dim, heads * head_dim)
    attention.c_proj.weight.copy_(padded(weight).T)
    attention.c_proj.bias.copy_(bias)
