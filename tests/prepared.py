"""Prepared rows written without Ray: coloured squares, each with captions of its own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fakes import captions_of
from PIL import Image

from raycap.schema import IMAGE_SCHEMA


def write_prepared(folder: Path, *, train: int, val: int, per_image: int = 3) -> Path:
    """Rows as `raycap prepare` writes them, image ids train-000, ..., val-000, ...; returns the folder."""
    captions = iter(captions_of(train + val, per_image=per_image))
    noise = np.random.default_rng(0)
    counts = {"train": train, "val": val, "test": 0}
    for split, count in counts.items():
        if not count:
            continue
        rows = []
        for number in range(count):
            pixels = noise.integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(10, axis=0).repeat(12, axis=1)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG")
            name = f"{split}-{number:03}"
            image = buffer.getvalue()
            rows.append({"image_id": name, "split": split, "image": image, "captions": next(captions)})
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA), folder / split / "part-00000.parquet")
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": str(folder), "counts": counts}))
    return folder
