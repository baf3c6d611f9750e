"""Why a gpt2_cross said a caption: the plain forward over its tokens, with each cross-attention layer watched.

Watching is done from outside by hooks, so training and decoding pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raycap.decoding import Hypothesis
from raycap.models.base import Explanation
from raycap.models.gpt2_cross.cross_attention import CrossAttention
from raycap.models.gpt2_cross.group import as_captions
from raycap.schema import CaptionBatch
from raycap.text import pack

if TYPE_CHECKING:
    from raycap.models.gpt2_cross.model import Gpt2Cross


def explain_hypotheses(
    model: Gpt2Cross, features: Tensor, found: Sequence[Hypothesis], *, max_tokens: int
) -> list[Explanation]:
    """Explanations of an image's captions, features (1, patches, vision_dim); see CaptionModel.explain.

    A hypothesis of `max_tokens` tokens did not end: the end token counts as one.
    """
    end = model.tokenizer.end_id
    said = [[*one.token_ids, end][:max_tokens] for one in found]
    with torch.inference_mode(), watch(model.cross) as seen:
        log_p = model.logits(packed(model, features, said)).float().log_softmax(-1).cpu()  # (real, vocab)
    attention = torch.stack(seen.attention)  # (layers, real, heads, patches)
    shares = torch.stack(seen.image_share)  # (layers, real)
    gates = torch.tensor(
        [float(gate.detach().tanh()) for layer in model.cross if isinstance(gate := layer.gate, Tensor)]
    )
    lengths = [len(ids) for ids in said]
    parts = zip(
        as_captions(found, model.tokenizer),
        said,
        torch.split(log_p, lengths),
        torch.split(attention.transpose(1, 2), lengths, dim=2),  # each (layers, heads, tokens, patches)
        torch.split(shares, lengths, dim=1),
        strict=True,
    )
    return [Explanation(*part, gates=gates) for part in parts]


def packed(model: Gpt2Cross, features: Tensor, said: list[list[int]]) -> CaptionBatch:
    """One image with several captions, as training packs them."""
    arrays = pack([said], start_id=model.tokenizer.start_id, end_id=model.tokenizer.end_id)
    device = features.device
    ids, labels, positions, index = (
        torch.from_numpy(arrays[name]).to(device)
        for name in ("input_ids", "labels", "position_ids", "caption_index")
    )
    return CaptionBatch(
        features=features,
        input_ids=ids,
        labels=labels,
        position_ids=positions,
        caption_index=index,
        image_key=torch.zeros(1, dtype=torch.int64, device=device),
    )


@dataclass
class Seen:
    """What the layers did in one forward, in their order, on the CPU."""

    attention: list[Tensor] = field(default_factory=list)  # each (real, heads, patches)
    image_share: list[Tensor] = field(default_factory=list)  # each (real,)


@contextmanager
def watch(layers: Any) -> Iterator[Seen]:
    """Record what cross-attention layers do while the block runs."""
    seen = Seen()

    def record(layer: CrossAttention, inputs: tuple[Any, ...], output: Tensor) -> None:
        hidden: Tensor = inputs[0]
        seen.attention.append(layer.weights(*inputs).cpu())
        added, own = output.float().norm(dim=-1), hidden.float().norm(dim=-1)  # (real,)
        seen.image_share.append((added / own.clamp_min(1e-12)).cpu())

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(record).remove)
        yield seen
