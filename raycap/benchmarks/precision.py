"""What lower precision and a cut vocabulary do to the captions of real photos, with a trained checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycap.config import ConfigError
from raycap.data import start_ray
from raycap.data.loading import open_rows
from raycap.data.splits import read_references
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine
from raycap.metrics import score
from raycap.models.gpt2_cross.decoder import Decoder
from raycap.models.gpt2_cross.model import Gpt2Cross
from raycap.vision import decode_image

BATCH = 16


def precision_rows(
    checkpoint: str, data: str, *, split: str = "val", limit: int = 0, **places: str
) -> list[dict[str, Any]]:
    """For each precision CIDEr-D, the share of captions as in float32, and of those as when decoded alone.

    Args:
        checkpoint: of the gpt2_cross family, as CaptionEngine.load takes it.
        data: prepared rows. The vocabulary is cut to the tokens of the training split's captions.
        split: whose photos to caption.
        limit: photos to caption; 0 takes all.
        places: `encoder` and `language_model` where they have moved since training.

    Raises:
        ConfigError: another family.
    """
    start_ray()
    engine = CaptionEngine.load(checkpoint, device="cpu", **places)  # type: ignore[arg-type]
    if not isinstance(engine.model, Gpt2Cross):
        raise ConfigError(f"precision is compared for gpt2_cross only, and {checkpoint} is of another family")
    vocabulary = caption_vocabulary(engine.model, data)
    features, references = photos(engine, data, split=split, limit=limit)
    variants: dict[str, dict[str, Any]] = {
        "float32": {},
        "float32, cut vocabulary": {"vocabulary": vocabulary},
        "bfloat16": {"precision": "bfloat16"},
        "int8": {"precision": "int8"},
        "int8, cut vocabulary": {"precision": "int8", "vocabulary": vocabulary},
    }
    sizes = f"{len(references)} photos, vocabulary {len(vocabulary)} when cut"
    rows: list[dict[str, Any]] = []
    baseline: list[str] = []
    for name, settings in variants.items():
        decoder = Decoder.from_model(engine.model, **settings)
        together = list(captions(engine, decoder, features, batch=BATCH))
        alone = list(captions(engine, decoder, features, batch=1))
        baseline = baseline or together
        rows += [
            _row(f"{name}: CIDEr-D", score(together, references)["cider_d"], sizes=sizes),
            _row(f"{name}: captions as in float32", share_equal(together, baseline), sizes=sizes),
            _row(f"{name}: captions as when alone", share_equal(together, alone), sizes=sizes),
        ]
    return [{**row, "ratio": _against_first(row, rows[0]), "ratio_to": "float32"} for row in rows]


def caption_vocabulary(model: Gpt2Cross, data: str) -> list[int]:
    """Token ids that the training split's captions use."""
    captions_of = [caption for one in read_references(data, "train").values() for caption in one.captions]
    encoded = model.tokenizer.encode(captions_of, max_tokens=model.gpt2.config.n_positions)
    return sorted({token for ids in encoded for token in ids})


def photos(engine: CaptionEngine, data: str, *, split: str, limit: int) -> tuple[Tensor, list[list[str]]]:
    """Features of the photos, (images, patches, vision_dim), and their references."""
    features, references, waiting = [], [], []
    for row in open_rows(data, split, limit=limit).iter_rows():
        waiting.append(engine.preprocess(decode_image(row["image"])))
        references.append(list(row["captions"]))
        if len(waiting) == BATCH:
            features.append(engine.encoder.encode(np.stack(waiting)).cpu())
            waiting = []
    if waiting:
        features.append(engine.encoder.encode(np.stack(waiting)).cpu())
    return torch.cat(features), references


def captions(engine: CaptionEngine, decoder: Decoder, features: Tensor, *, batch: int) -> Iterator[str]:
    """The best caption of each image by the checkpoint's own decoding, `batch` images at a time."""
    decoding = DecodingConfig.model_validate({**engine.manifest.decoding.model_dump(), "n": 1})
    assert isinstance(engine.model, Gpt2Cross)
    for part in torch.split(features, batch):
        for found in decoder.caption(part, decoding):
            yield engine.model.tokenizer.decode(found[0].token_ids)


def share_equal(ours: list[str], theirs: list[str]) -> float:
    return sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours)


def _row(name: str, value: float, *, sizes: str) -> dict[str, Any]:
    unit = "CIDEr-D" if name.endswith("CIDEr-D") else "share"
    threads = torch.get_num_threads()
    empty = {"aim": "", "floor_gap": None}
    return {"row": name, "value": value, "unit": unit, **empty, "threads": threads, "sizes": sizes}


def _against_first(row: dict[str, Any], first: dict[str, Any]) -> float | None:
    return float(row["value"] / first["value"]) if row["unit"] == first["unit"] else None
