"""A checkpoint's encoder and decoder as one plain VisionEncoderDecoderModel, with its decoding settings.

The trained feature norm normalises between the two, where that class has no place for it. A CLIP vision tower carries
it in one more layer of its own; other encoders leave it to the caller, who hands over `encoder_outputs` (the model
card's snippet shows how), as convolutional ones must anyway: that class takes no feature maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from raycap.config import ConfigError
from raycap.decoding import DecodingConfig
from raycap.text import CaptionTokenizer

Takes = Literal["pixels", "features"]
# A normalised state is multiplied by this before it is added to the residual stream, whose own values then round away:
# their share of a float32's 24 bits is nothing. A power of two, so that dividing by it later is exact.
LOUD = 2.0**24
# act(z) - act(-z) = z for each of these, so that a layer's MLP can pass a state through unchanged.
ODD_ACTIVATIONS = {"quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish"}


@dataclass(frozen=True)
class Assembled:
    """The model, and what its `generate` takes: pixel_values, or normalised features as encoder_outputs."""

    model: Any
    takes: Takes
    loudness: float = 1.0
    """What its encoder's states are multiplied by."""


@torch.no_grad()
def assemble(
    tower: Any,
    decoder: Any,
    *,
    vision_dim: int,
    layer: int,
    decoding: DecodingConfig,
    tokenizer: CaptionTokenizer,
) -> Assembled:
    """Put an image tower and what `CaptionModel.to_transformers` gave together, in float32.

    Args:
        tower: transformers' image model.
        decoder: GPT-2 with cross-attention.
        vision_dim: width of the features.
        layer: which hidden state of the tower they are; -1 is the last.
        decoding: becomes the generation config.
        tokenizer: whose start and end tokens generation begins and ends with.

    Raises:
        ConfigError: an encoder whose configuration contradicts its features.
    """
    from transformers import VisionEncoderDecoderModel

    tower = tower.float().cpu()
    carries = can_carry_norm(tower)
    if carries:
        tower = with_norm_layer(tower, layer=layer)
    stated = getattr(tower.config, "hidden_size", vision_dim)
    if stated != vision_dim:
        raise ConfigError(
            f"the encoder states hidden_size {stated} and its features have {vision_dim}, which transformers' "
            "VisionEncoderDecoderModel takes for an error; take --form adapter"
        )
    tower.config.hidden_size = vision_dim  # which convolutional configurations lack
    model = VisionEncoderDecoderModel(encoder=tower, decoder=decoder).eval()
    loudness = LOUD if carries else 1.0
    _quieten(model, loudness)
    for config in (model.config, model.config.encoder, model.config.decoder):
        config._name_or_path = ""  # where they lay on this machine
    model.generation_config = generation_config(decoding, tokenizer)
    return Assembled(model, "pixels" if carries else "features", loudness)


def can_carry_norm(tower: Any) -> bool:
    """Whether a tower is CLIP's: states pass un-normalised out of its layers, which have room for an identity."""
    config = tower.config
    return bool(
        config.model_type == "clip_vision_model"
        and config.hidden_act in ODD_ACTIVATIONS
        and config.intermediate_size >= 2 * config.hidden_size
    )


def with_norm_layer(tower: Any, *, layer: int) -> Any:
    """A CLIP tower up to its hidden state `layer` whose output is that state normalised (mean 0, variance 1) x LOUD.

    The layer added attends to nothing, and its MLP is the identity of its norm.
    """
    depth = tower.config.num_hidden_layers
    kept = layer if layer >= 0 else depth + 1 + layer  # hidden state 0 is what enters the first layer
    settings = {**tower.config.to_dict(), "num_hidden_layers": kept + 1, "dtype": "float32"}
    carrying = type(tower)(type(tower.config).from_dict(settings)).eval().requires_grad_(False)
    states = tower.state_dict()
    dropped = tuple(f"encoder.layers.{number}." for number in range(kept, depth))
    carrying.load_state_dict(
        {name: state for name, state in states.items() if not name.startswith(dropped)}, strict=False
    )
    _make_identity(carrying.encoder.layers[kept], width=settings["hidden_size"])
    return carrying


def _make_identity(layer: Any, *, width: int) -> None:
    for linear in (layer.self_attn.out_proj, layer.mlp.fc1, layer.mlp.fc2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.ones_(layer.layer_norm2.weight)
    nn.init.zeros_(layer.layer_norm2.bias)
    same = torch.eye(width)
    layer.mlp.fc1.weight[: 2 * width] = torch.cat([same, -same])
    layer.mlp.fc2.weight[:, : 2 * width] = torch.cat([same, -same], dim=1) * LOUD


def _quieten(model: Any, loudness: float) -> None:
    """Divide by `loudness` where the decoder takes the encoder's states."""
    if hasattr(model, "enc_to_dec_proj"):  # there where widths differ: the zeros after the features
        nn.init.eye_(model.enc_to_dec_proj.weight).div_(loudness)
        nn.init.zeros_(model.enc_to_dec_proj.bias)
        return
    for block in model.decoder.transformer.h:
        block.crossattention.c_attn.weight.div_(loudness)


def generation_config(decoding: DecodingConfig, tokenizer: CaptionTokenizer) -> Any:
    """Decoding settings in transformers' words; sampling there draws its own random numbers."""
    from transformers import GenerationConfig

    settings: dict[str, Any] = {
        "decoder_start_token_id": tokenizer.start_id,
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.end_id,
        "max_new_tokens": decoding.max_tokens,
        "min_new_tokens": decoding.min_tokens,
        "num_return_sequences": decoding.n,
        "repetition_penalty": decoding.repetition_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram,
    }
    if decoding.sample:
        drawn = {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p}
        return GenerationConfig(**settings, do_sample=True, **drawn)
    settings["num_beams"] = decoding.beams
    if decoding.beams > 1:
        settings.update(length_penalty=decoding.length_penalty, early_stopping=False)
    return GenerationConfig(**settings, do_sample=False)
