"""The files of the plain form: weights, configurations, tokenizer and image processor."""

from __future__ import annotations

from pathlib import Path

from raycap import storage
from raycap.checkpoint.manifest import TOKENIZER
from raycap.engine import CaptionEngine
from raycap.export.assemble import Assembled, assemble
from raycap.text import CaptionTokenizer
from raycap.vision.encoder import find_model, load_tower, quiet_transformers


def write_plain(engine: CaptionEngine, folder: Path) -> Assembled:
    """Write a checkpoint's models into `folder` as one VisionEncoderDecoderModel.

    Raises:
        ConfigError: a family or an encoder that cannot be written so.
        OSError: the disk is full, or takes no writing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor

    tokenizer = _copy_tokenizer(engine, folder)
    trained = engine.encoder.config
    place = find_model(trained.name, trained.revision)
    assembled = assemble(
        load_tower(place, torch.float32),
        engine.model.to_transformers(),
        vision_dim=engine.encoder.vision_dim,
        layer=trained.layer,
        decoding=engine.manifest.decoding,
        tokenizer=tokenizer,
    )
    with quiet_transformers():
        try:
            assembled.model.save_pretrained(folder)
        except SafetensorError as error:  # a full disk, among others: no OSError of Python's
            raise OSError(f"the weights cannot be written to {folder.parent}: {error}") from None
        for weights in folder.glob("*.safetensors"):  # written for the owner alone, unlike all else
            weights.chmod((folder / "config.json").stat().st_mode)
        AutoImageProcessor.from_pretrained(place, backend="pil").save_pretrained(folder)
    return assembled


def _copy_tokenizer(engine: CaptionEngine, folder: Path) -> CaptionTokenizer:
    """The checkpoint's own copy, put beside the weights; read alone, before a model's config lies there too."""
    for name in engine.manifest.files:
        if name.startswith(f"{TOKENIZER}/"):
            content = storage.read_bytes(storage.join(engine.path, name))
            (folder / name.removeprefix(f"{TOKENIZER}/")).write_bytes(content)
    return CaptionTokenizer.load(str(folder))
