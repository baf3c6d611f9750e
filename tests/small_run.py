"""A run folder in seconds, without training: for tests of what comes after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes import make_encoder, make_language_model

from raycap.checkpoint import EncoderInfo, RunCheckpoints
from raycap.decoding import DecodingConfig
from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.vision import EncoderConfig, VisionEncoder


def make_run(folder: Path, *, encoder: Path | None = None, seed: int = 1, **settings: Any) -> Path:
    """A gpt2_cross of random weights, whose captions depend on the image, saved as step 7 of a run.

    `settings` are more of the encoder's.
    """
    import torch

    place = encoder or make_encoder(folder / "encoder")
    vision = VisionEncoder(EncoderConfig(name=str(place), **settings), device="cpu")
    config = Gpt2CrossConfig(language_model=str(make_language_model(folder / "language_model")))
    tokenizer = config.load_tokenizer()
    model = config.build(tokenizer=tokenizer, vision_dim=vision.vision_dim)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora" not in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    RunCheckpoints(str(folder / "run")).save_step(
        model,
        model_config=config,
        tokenizer=tokenizer,
        encoder=EncoderInfo(
            config=vision.config,
            fingerprint=vision.fingerprint,
            vision_dim=vision.vision_dim,
            patches=vision.patches,
        ),
        decoding=DecodingConfig(beams=2, max_tokens=8),
        metrics={"val_loss": 3.0, "cider_d": 0.1},
        step=7,
        epoch=0,
    )
    return folder / "run"
