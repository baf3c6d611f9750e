"""What lower precision and a cut vocabulary do to the captions of real photos, with a trained checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycap.data import start_ray
from raycap.data.loading import open_rows
from raycap.engine import CaptionEngine
from raycap.metrics import PreparedReferences
from raycap.models.kernels import has_onednn
from raycap.vision import decode_image

BATCH = 16
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, cut vocabulary": {"vocabulary": "captions"},
    "bfloat16": {"precision": "bfloat16"},
    "int8": {"precision": "int8"},
    "int8, cut vocabulary": {"precision": "int8", "vocabulary": "captions"},
}


def precision_rows(
    *, checkpoint: str, data: str, split: str = "val", quick: bool = False
) -> list[dict[str, Any]]:
    """For each precision CIDEr-D, the share of captions as in float32, and of those as when decoded alone.

    Args:
        checkpoint: as CaptionEngine.load takes it.
        data: prepared rows.
        split: whose photos to caption.
        quick: 32 photos.
    """
    start_ray()
    features, captions = photos(checkpoint, data, split=split, limit=32 if quick else 0)
    references = PreparedReferences(captions)
    sizes = f"{len(captions)} photos of {split}, {checkpoint}, its own decoding"
    rows: list[dict[str, Any]] = []
    baseline: list[str] = []
    for name, settings in VARIANTS.items():
        if settings.get("precision") == "int8" and not has_onednn():
            continue
        engine = CaptionEngine.load(checkpoint, device="cpu", **settings)
        together = list(captions_of(engine, features, batch=BATCH))
        alone = list(captions_of(engine, features, batch=1))
        baseline = baseline or together
        cider_d = references.statistics(together).scores()["cider_d"]
        rows += [
            _row(f"{name}: CIDEr-D", cider_d, sizes=sizes),
            _row(f"{name}: captions as in float32", share_equal(together, baseline), sizes=sizes),
            _row(f"{name}: captions as when alone", share_equal(together, alone), sizes=sizes),
        ]
    return [{**row, "ratio": _against_first(row, rows[0]), "ratio_to": "float32"} for row in rows]


def photos(checkpoint: str, data: str, *, split: str, limit: int) -> tuple[Tensor, list[list[str]]]:
    """Features of the photos, (images, patches, vision_dim), and their references."""
    engine = CaptionEngine.load(checkpoint, device="cpu")
    rows = open_rows(data, split, limit=limit).take_all()
    pixels = [engine.preprocess(decode_image(row["image"])) for row in rows]
    parts = [
        engine.encoder.encode(np.stack(pixels[begin : begin + BATCH]))
        for begin in range(0, len(pixels), BATCH)
    ]
    return torch.cat(parts), [list(row["captions"]) for row in rows]


def captions_of(engine: CaptionEngine, features: Tensor, *, batch: int) -> Iterator[str]:
    """The best caption of each image by the checkpoint's own decoding, `batch` images at a time."""
    for part in torch.split(features, batch):
        for found in engine.caption_features(part, engine.decoding(n=1)):
            yield found[0].text


def share_equal(ours: list[str], theirs: list[str]) -> float:
    return sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours)


def _row(name: str, value: float, *, sizes: str) -> dict[str, Any]:
    unit = "CIDEr-D" if name.endswith("CIDEr-D") else "share"
    return {"row": name, "value": value, "unit": unit, "threads": torch.get_num_threads(), "sizes": sizes}


def _against_first(row: dict[str, Any], first: dict[str, Any]) -> float | None:
    return float(row["value"] / first["value"]) if row["unit"] == first["unit"] else None
