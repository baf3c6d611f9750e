"""Prepared rows written without Ray (photos of random blocks, each with captions of its own), and runs on them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fakes import captions_of, make_tokenizer
from PIL import Image

from raycap.schema import IMAGE_SCHEMA


def make_picture(seed: int) -> bytes:
    """A JPEG of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((60, 50), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tiny_run(folder: Path, encoder: str, *, train: int, val: int, **options: Any) -> dict[str, Any]:
    """Settings of a run of tests/tiny_family.py on two workers, and what it needs; options are of the train block."""
    (folder / "log").mkdir()
    return {
        "data": {"path": str(write_prepared(folder / "data", train=train, val=val))},
        "encoder": {"name": encoder},
        "featurize": {"output": str(folder / "features")},
        "model": {
            "family": "tiny",
            "tokenizer": str(make_tokenizer(folder / "tokenizer")),
            "log": str(folder / "log"),
        },
        "train": {
            "run": str(folder / "run"),
            "epochs": 2,
            "num_workers": 2,
            "device": "cpu",
            "bucket_batches": 2,
            "checkpoint_every_steps": 1,
            **options,
        },
    }


def write_prepared(folder: Path, *, train: int = 0, val: int = 0, test: int = 0, per_image: int = 3) -> Path:
    """Rows as `raycap prepare` writes them; returns the folder.

    Image ids are train-000, ..., val-000, ...; the picture of image number n, over all splits, is make_picture(n).
    """
    captions = captions_of(train + val + test, per_image=per_image)
    counts = {"train": train, "val": val, "test": test}
    first = 0
    for split, count in counts.items():
        rows = [
            {
                "image_id": f"{split}-{number:03}",
                "split": split,
                "image": make_picture(first + number),
                "captions": captions[first + number],
            }
            for number in range(count)
        ]
        if rows:
            (folder / split).mkdir(parents=True)
            table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
            pq.write_table(table, folder / split / "part-00000.parquet")
        first += count
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": str(folder), "counts": counts}))
    return folder
