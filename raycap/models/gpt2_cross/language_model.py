"""The frozen GPT-2: found, checked, quantised where asked, and given its LoRA adapters.

Only weights in safetensors are read and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycap.config import ConfigError
from raycap.models.gpt2_cross.config import Gpt2CrossConfig, LoraConfig
from raycap.models.gpt2_cross.quantization import quantize, quiet_bitsandbytes
from raycap.models.layers import Dropout
from raycap.text import folder_or_hub_name

DIGEST_VALUES = 4096  # of each weight, evenly spread

# Settings of a GPT-2 config that change what the model computes, with the one value that is computed here.
IMPLEMENTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


def load_language_model(config: Gpt2CrossConfig) -> tuple[Any, Tensor]:
    """GPT2LMHeadModel on the CPU, all of it frozen but its adapters, and the digest of its weights.

    Raises:
        ConfigError: not there, not GPT-2-shaped, incomplete, or not to be had in the asked precision here.
    """
    from transformers import GPT2LMHeadModel

    name = folder_or_hub_name(config.language_model)
    settings = _load_settings(name)
    if settings.activation_function == "gelu_new":
        settings.activation_function = "gelu_pytorch_tanh"  # the same function in one kernel instead of eight
    try:
        with no_progress_bar():
            model, report = GPT2LMHeadModel.from_pretrained(
                name, config=settings, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot_load(name, error)) from error
    if report["missing_keys"]:
        first = sorted(report["missing_keys"])[0]
        raise ConfigError(f"{name} lacks {len(report['missing_keys'])} of GPT-2's weights, first: {first}")
    model.requires_grad_(False)
    replace_dropout(model, config.dropout)
    digest = weights_digest(model)
    if config.quantization != "none":
        quantize(model, bits=config.quantization)
    if config.lora.rank:
        add_adapters(model, config.lora, quantized=config.quantization != "none")
    return model, digest


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers shows one for reading a file that takes a tenth of a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_settings(name: str) -> Any:
    """The checkpoint's GPT2Config, refused where it describes something else than what is computed here."""
    from transformers import AutoConfig

    try:
        settings = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot_load(name, error)) from error
    if settings.model_type != "gpt2":
        raise ConfigError(
            f"{name} is a {settings.model_type!r} model; gpt2_cross takes GPT-2-shaped checkpoints "
            "(model_type 'gpt2'), such as gpt2, gpt2-medium, gpt2-large, distilgpt2 or a folder of one"
        )
    for setting, value in IMPLEMENTED.items():
        if getattr(settings, setting) != value:
            raise ConfigError(
                f"{name} has {setting}={getattr(settings, setting)}; gpt2_cross takes {value} only"
            )
    return settings


def _cannot_load(name: str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0]
    return (
        f"cannot load the language model {name!r} ({reason}); give a folder with config.json and "
        "model.safetensors, or a hub name while online (offline: download it first, or set HF_HOME to it)"
    )


def replace_dropout(model: Any, p: float) -> None:
    """Dropout of the embeddings and of what every layer adds; none of attention weights."""
    model.transformer.drop = Dropout(p)
    for block in model.transformer.h:
        block.attn.resid_dropout = Dropout(p)
        block.mlp.dropout = Dropout(p)


def add_adapters(model: Any, lora: LoraConfig, *, quantized: bool) -> None:
    """Put trainable float32 LoRA layers into the attention of every block, and into the MLP where asked."""
    quiet_bitsandbytes()  # PEFT imports it
    import peft

    # The bare name "c_proj" would hit the MLP as well, so layers are named by a pattern of their whole path.
    layers = r"attn\.(c_attn|c_proj)" + (r"|mlp\.(c_fc|c_proj)" if lora.mlp else "")
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"transformer\.h\.\d+\.({layers})",
        fan_in_fan_out=not quantized,  # transformers' Conv1D holds its weight transposed
    )
    peft.inject_adapter_in_model(settings, model)


def weights_digest(model: nn.Module) -> Tensor:
    """(4,) int64 that tells one set of weights from another: a hash of an even sample of each."""
    digest = hashlib.blake2b(digest_size=32)
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        sample = flat[:: max(1, len(flat) // DIGEST_VALUES)].float().contiguous()
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return torch.from_numpy(np.frombuffer(digest.digest(), dtype=np.int64).copy())


def share_frozen(model: nn.Module, other: nn.Module) -> None:
    """Let the frozen weights of a model be those of another one of the same digest: one copy in memory."""
    others = dict(other.named_parameters())
    for name, weight in model.named_parameters():
        twin = others.get(name)
        if (
            twin is not None
            and not weight.requires_grad
            and not twin.requires_grad
            and twin.dtype == weight.dtype
        ):
            weight.data = twin.data
