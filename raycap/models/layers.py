"""Parts that families share: the layout of packed captions, attention, dropout, the loss over a frozen head.

Packed batches are described in schema.CaptionBatch. Nothing here knows a family. Where an operation is written
out for CPUs it is because torch's own took several times as long there, forward and backward, in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycap.schema import CaptionBatch

LOSS_ROWS = 256  # tokens whose logits are held at once: 256 x 50,257 bfloat16 = 26 MB


class Grid:
    """Real tokens laid out in padded rows, and back."""

    def __init__(self, cells: Tensor, *, rows: int, columns: int) -> None:
        self.cells = cells  # (real,) int64: each token's place in rows * columns
        self.rows, self.columns = rows, columns

    def spread(self, tokens: Tensor) -> Tensor:
        """(real, width) -> (rows, columns, width), zeros in the padding."""
        if len(self.cells) < self.rows * self.columns:
            padded = tokens.new_zeros(self.rows * self.columns, tokens.shape[-1])
            tokens = padded.index_copy(0, self.cells, tokens)
        return tokens.view(self.rows, self.columns, tokens.shape[-1])

    def collect(self, rows: Tensor) -> Tensor:
        """(rows, columns, ...) -> (real, ...)."""
        flat = rows.flatten(0, 1)
        return flat if len(self.cells) == len(flat) else flat.index_select(0, self.cells)


class PackedTokens:
    """Where the real tokens of a packed batch lie.

    Linear layers run over the real tokens alone, (real, width), so padding costs nothing there. Attention needs
    rows: cross-attention those of `images`, as the batch has them, so that an image's captions share its keys and
    values; self-attention those of `captions`, where "causal" is all the mask there is.
    """

    def __init__(self, batch: CaptionBatch) -> None:
        index, positions = batch["caption_index"], batch["position_ids"]  # (batch, tokens)
        flat = (index >= 0).flatten().nonzero().squeeze(1)  # (real,)
        self.images = Grid(flat, rows=index.shape[0], columns=index.shape[1])
        per_image = index.amax(dim=1) + 1  # (batch,)
        number = (per_image.cumsum(0) - per_image)[:, None] + index  # (batch, tokens) of each token's caption
        longest = int(positions.max()) + 1
        cells = (number * longest + positions).flatten().index_select(0, flat)  # (real,)
        self.captions = Grid(cells, rows=int(per_image.sum()), columns=longest)


def split_heads(rows: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
    batch, tokens, width = rows.shape
    return rows.view(batch, tokens, heads, width // heads).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, heads * head_dim)."""
    return heads.transpose(1, 2).flatten(2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False) -> Tensor:
    """Attention of (batch, heads, tokens, head_dim), scaled by head_dim**-0.5."""
    if queries.device.type != "cpu" or queries.dtype == torch.float32:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)  # (batch, heads, tokens, keys)
    if causal:
        later = torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype).triu(1)
        scores = scores + later
    attended: Tensor = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
    return attended


class Dropout(nn.Module):
    """Dropout; on CPUs its random numbers are bytes, so that `p` is rounded to 1/256 there."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zeros for the share p, the rest scaled up; x itself in eval mode."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(max(round(self.p * 256), 1), 255)  # of 256
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), 2**63 - 1)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * keep.to(x.dtype).mul_(256 / (256 - dropped))


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
        centre = head.mean(0, dtype=torch.float32) if smoothing else None  # its product is a row's mean logit
        loss = hidden.new_zeros((), dtype=torch.float32)
        plain = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(hidden), LOSS_ROWS):
            rows = slice(begin, begin + LOSS_ROWS)
            chosen = targets[rows, None]  # (rows, 1)
            logits = hidden[rows] @ head.T  # (rows, vocab)
            # Without a gradient to make from them, probabilities are worth float32.
            softmax = logits.softmax(-1, dtype=None if gradient is not None else torch.float32)
            log_p = softmax.gather(1, chosen).float().clamp_min(1e-38).log()  # (rows, 1)
            plain -= log_p.sum()
            if centre is not None:
                normaliser = logits.gather(1, chosen).float() - log_p
                even = ((hidden[rows].float() @ centre)[:, None] - normaliser).sum()
                loss -= (1 - smoothing) * log_p.sum() + smoothing * even
            if gradient is not None:
                softmax[torch.arange(len(softmax), device=hidden.device), targets[rows]] -= 1 - smoothing
                gradient[rows] = softmax @ head
                if centre is not None:
                    gradient[rows] -= (smoothing * centre).to(gradient.dtype)
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
    dtype = compute_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor
        plain: Tensor
        loss, plain = _FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden.to(dtype), head.to(dtype), targets, smoothing
        )
    return loss, plain


def compute_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of x run in: autocast's type where it is on, else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
