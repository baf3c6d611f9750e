"""A run folder and prepared rows in seconds, without training: for tests of what comes after training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fakes import captions_of, make_encoder, make_language_model
from PIL import Image

from raycap import storage
from raycap.checkpoint import EncoderInfo, RunCheckpoints
from raycap.data.manifest import DataManifest
from raycap.decoding import DecodingConfig
from raycap.models.gpt2_cross import Gpt2CrossConfig
from raycap.schema import IMAGE_SCHEMA
from raycap.vision import EncoderConfig, VisionEncoder


def make_run(folder: Path, *, encoder: Path | None = None) -> Path:
    """A gpt2_cross of random weights, whose captions depend on the image, saved as step 7 of a run."""
    import torch

    place = encoder or make_encoder(folder / "encoder")
    vision = VisionEncoder(EncoderConfig(name=str(place)), device="cpu")
    config = Gpt2CrossConfig(language_model=str(make_language_model(folder / "language_model")))
    tokenizer = config.load_tokenizer()
    model = config.build(tokenizer=tokenizer, vision_dim=vision.vision_dim)
    torch.manual_seed(1)
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


def make_picture(seed: int) -> bytes:
    """A JPEG of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((60, 50), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def make_rows(folder: Path, **counts: int) -> Path:
    """Prepared rows: a number of images by split, three captions each."""
    captions = captions_of(sum(counts.values()))
    start = 0
    for split, count in counts.items():
        rows = range(start, start + count)
        table = pa.table(
            {
                "image_id": [f"{split}-{index}" for index in rows],
                "split": [split] * count,
                "image": [make_picture(index) for index in rows],
                "captions": [captions[index] for index in rows],
            },
            schema=IMAGE_SCHEMA,
        )
        (folder / split).mkdir(parents=True)
        pq.write_table(table, folder / split / "part-00000.parquet", row_group_size=8)
        start += count
    manifest = DataManifest(
        raycap="test",
        source={"kind": "test"},
        fingerprint=f"rows-{counts}",
        counts=counts,
        captions={split: 3 * count for split, count in counts.items()},
    )
    storage.write_json(str(folder / "manifest.json"), manifest.model_dump(mode="json"))
    return folder
