"""Plain weights out of GPT-2's linear layers, whatever they are: Conv1D, wrapped by PEFT, bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def effective_linear(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,) in float32 with adapters added; the layer itself is not changed.

    Where there is no adapter the weight may be a view of the layer's own.
    """
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    weight = _base_weight(base)
    for name in getattr(layer, "active_adapters", []):
        update = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()  # (out, in)
        weight = weight + layer.scaling[name] * update
    return weight, base.bias.detach().float()


def _base_weight(base: Any) -> Tensor:
    """(out, in) float32."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(base, Conv1D):
        transposed: Tensor = base.weight.detach().float()  # (in, out)
        return transposed.T
    if type(base.weight).__name__ in {"Int8Params", "Params4bit"}:
        # Not PEFT's dequantize_module_weight: it re-wraps an 8-bit weight without its scales, and the layer's
        # next forward fails.
        from peft.utils.integrations import dequantize_bnb_weight

        plain: Tensor = dequantize_bnb_weight(base.weight, state=getattr(base, "state", None))
        return plain.detach().float()
    weight: Tensor = base.weight.detach().float()
    return weight
