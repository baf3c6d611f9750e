"""The frozen GPT-2 in 8 or 4 bits through bitsandbytes.

Only the linear layers of the blocks are quantised: embeddings, the head and what trains stay as they are.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from raycap.config import ConfigError


def quantize(model: Any, *, bits: str) -> None:
    """Replace the linear layers of every block by bitsandbytes' layers of `bits` ("8bit" or "4bit").

    Raises:
        ConfigError: bitsandbytes cannot do it on this machine.
    """
    quiet_bitsandbytes()
    check_machine(bits)
    for block in model.transformer.h:
        for parent, name in (
            (block.attn, "c_attn"),
            (block.attn, "c_proj"),
            (block.mlp, "c_fc"),
            (block.mlp, "c_proj"),
        ):
            setattr(parent, name, quantized_linear(getattr(parent, name), bits=bits))
    model.is_loaded_in_8bit = bits == "8bit"  # what PEFT chooses its kind of adapter by
    model.is_loaded_in_4bit = bits == "4bit"


def quantized_linear(conv: nn.Module, *, bits: str) -> nn.Module:
    """bitsandbytes' layer with the weights of a transformers Conv1D (in, out), quantised."""
    import bitsandbytes as bnb

    weight: Tensor = conv.weight.detach().T.contiguous()  # type: ignore[operator] # (out, in)
    rows, columns = weight.shape
    layer: nn.Module
    if bits == "8bit":
        layer = bnb.nn.Linear8bitLt(columns, rows, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(columns, rows, quant_type="nf4", compress_statistics=True)
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=layer)
        # On CPUs with AVX512-bf16 the first pass in eval mode would repack the weights in a format that has
        # no backward pass, so that training on after a validation fails.
        setattr(layer, "support_avx512bf16_for_cpu", False)  # noqa: B010 - unknown to nn.Module's types
    layer.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)  # type: ignore[operator]
    return layer.to("cpu")  # this is what quantises


def quiet_bitsandbytes() -> None:
    """Keep its remarks off the screen: a kernel not found (at import), each layer's cast of its input."""
    for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)


def check_machine(bits: str) -> None:
    """Quantise a small layer and pass a gradient through it, on the device that training would take.

    Raises:
        ConfigError: that does not work here; the message says why.
    """
    try:
        from transformers.pytorch_utils import Conv1D

        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
        layer = quantized_linear(Conv1D(64, 64), bits=bits).to(device)
        inputs = torch.randn(2, 64, device=device, requires_grad=True)
        layer(inputs).sum().backward()
    except (ImportError, RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"model.quantization={bits} is not possible on this machine: bitsandbytes says {reason!r}; "
            "use model.quantization=none"
        ) from error
