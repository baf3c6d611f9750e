"""Parts that families share: the layout of packed captions, the loss over a frozen head, attention.

Packed batches are described in schema.CaptionBatch. Nothing here knows a family.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS_ROWS = 256  # tokens whose logits are held at once: 256 x 50,257 float32 = 51 MB


class PackedTokens:
    """Where the real tokens of a packed batch lie.

    Linear layers run over the real tokens alone, (real, width), so padding costs nothing there; attention
    needs rows, (batch, tokens, width): `spread` and `collect` go between the two.
    """

    def __init__(self, caption_index: Tensor) -> None:
        self.shape = caption_index.shape  # (batch, tokens)
        self.positions = (caption_index >= 0).flatten().nonzero().squeeze(1)  # (real,) into batch * tokens
        same = caption_index[:, :, None] == caption_index[:, None, :]  # (batch, tokens, tokens)
        # A padding position sees the padding before it and itself: a row of nothing but -inf would give NaN.
        self.mask = same.tril().unsqueeze(1)  # (batch, 1, tokens, tokens) True where attention is allowed

    def spread(self, packed: Tensor) -> Tensor:
        """(real, width) -> (batch, tokens, width), zeros in the padding."""
        batch, tokens = self.shape
        if len(self.positions) < batch * tokens:
            rows = packed.new_zeros(batch * tokens, packed.shape[-1])
            packed = rows.index_copy(0, self.positions, packed)
        return packed.view(batch, tokens, packed.shape[-1])

    def collect(self, rows: Tensor) -> Tensor:
        """(batch, tokens, ...) -> (real, ...)."""
        flat = rows.flatten(0, 1)
        return flat if len(self.positions) == len(flat) else flat.index_select(0, self.positions)


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
    batch, tokens, width = rows.shape
    return rows.view(batch, tokens, heads, width // heads).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, heads * head_dim)."""
    return heads.transpose(1, 2).flatten(2)


def keep_some_patches(features: Tensor, *, drop: float) -> Tensor:
    """A random choice of each image's patches, the share `drop` left out: (batch, kept, vision_dim).

    The number kept is the same for every image, so nothing has to be masked; at least one stays.
    """
    batch, patches, width = features.shape
    kept = max(1, round(patches * (1 - drop)))
    if kept == patches:
        return features
    chosen = torch.rand(batch, patches, device=features.device).argsort(dim=1)[:, :kept, None]
    return features.gather(1, chosen.expand(-1, -1, width))


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropy whose gradient is computed on the way forward, some rows at a time.

    The head is frozen, so the only gradient is that of the hidden states, (softmax - target) @ head: the
    logits, by far the largest tensor of a step (tokens x 50,257), never exist as a whole.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        plain = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(hidden), LOSS_ROWS):
            rows = slice(begin, begin + LOSS_ROWS)
            logits = hidden[rows] @ head.T  # (rows, vocab)
            log_p = logits.log_softmax(-1, dtype=torch.float32)
            chosen = log_p.gather(1, targets[rows, None])
            plain -= chosen.sum()
            if smoothing:
                loss -= (1 - smoothing) * chosen.sum() + smoothing * log_p.mean(-1).sum()
            if gradient is not None:
                slope = log_p.exp_()
                if smoothing:
                    slope -= smoothing / slope.shape[1]
                slope.scatter_add_(1, targets[rows, None], torch.full_like(chosen, smoothing - 1))
                gradient[rows] = slope.to(head.dtype) @ head
        ctx.gradient = gradient
        ctx.mark_non_differentiable(plain)
        return (loss if smoothing else plain.clone()), plain

    @staticmethod
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.gradient * loss_gradient, None, None, None


def frozen_head_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, *, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of hidden states under a frozen head.

    Args:
        hidden: (tokens, model_dim); only it gets a gradient.
        head: (vocab, model_dim).
        targets: (tokens,) int64, every one real.
        smoothing: label smoothing, as in torch's cross_entropy.

    Returns:
        The loss with smoothing, and without (which has no gradient): float32 scalars.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor
        plain: Tensor
        loss, plain = _FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden.to(dtype), head.to(dtype), targets, smoothing
        )
    return loss, plain


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of (batch, heads, tokens, head_dim), scaled by head_dim**-0.5; mask: True where allowed."""
    if queries.device.type != "cpu" or queries.dtype == torch.float32:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # In bfloat16 torch's fused kernel for CPUs takes 4 to 6 times as long, forward and backward, as this.
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)  # (batch, heads, tokens, keys)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    attended: Tensor = scores.softmax(-1) @ values
    return attended
