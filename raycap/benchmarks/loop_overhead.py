"""What Ray costs: `train` with one worker against a plain PyTorch loop over the same rows."""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
import torch

from raycap.benchmarks.steps import Raycap, on_device, wait_for
from raycap.benchmarks.synthetic import (
    IMAGES,
    PATCHES,
    VISION_DIM,
    features_of,
    lengths_of,
    tokenizer,
)
from raycap.checkpoint import EncoderInfo
from raycap.data import start_ray
from raycap.data.loading import CaptionCollate, without
from raycap.train.config import TrainConfig
from raycap.train.launch import fit
from raycap.train.record import Clock, read_metrics
from raycap.train.rows import Rows
from raycap.vision import EncoderConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz" * 2


def loop_rows(folder: Path, *, device: torch.device, layers: int, quick: bool) -> list[dict[str, Any]]:
    """Tokens a second at the end of an epoch, the two in turns; both count them by the same clock."""
    start_ray()
    batches = 3 if quick else 32
    plain, through_ray, ratios = [], [], []
    for _ in range(1 if quick else 3):
        plain.append(plain_tokens_per_s(folder, device=device, batches=batches))
        through_ray.append(train_tokens_per_s(folder, device=device, batches=batches))
        ratios.append(plain[-1] / through_ray[-1])
    sizes = f"{batches} steps of {IMAGES} images x 5 captions, GPT-2 of {layers} layers, {device}"
    common = {"unit": "tokens/s", "threads": torch.get_num_threads(), "sizes": sizes}
    return [
        {"row": "plain loop", "value": statistics.median(plain), **common},
        {
            "row": "train, one worker",
            "value": statistics.median(through_ray),
            "ratio": statistics.median(ratios),
            "ratio_to": "plain loop / train",
            "aim": "<= 1.05",
            **common,
        },
    ]


def rows_of(batch: int) -> list[dict[str, Any]]:
    """Feature rows of a batch, their captions made of as many letters as tokens are wanted."""
    features = features_of(batch).numpy()
    return [
        {
            "image_id": f"{batch}-{number}",
            "split": "train",
            "features": features[number],
            "captions": [LETTERS[:length] for length in lengths],
        }
        for number, lengths in enumerate(lengths_of(batch))
    ]


def plain_tokens_per_s(folder: Path, *, device: torch.device, batches: int) -> float:
    """A loop over batches that are all there before it starts."""
    torch.manual_seed(0)
    contestant = Raycap(folder, device=device)
    collate = CaptionCollate(tokenizer(), max_tokens=40)
    rows = ray.data.from_items([row for batch in range(batches) for row in rows_of(batch)])
    loaded = list(rows.iter_torch_batches(batch_size=IMAGES, collate_fn=collate, device="cpu"))
    clock = Clock(share=0.0)
    for number, batch in enumerate(loaded, start=1):
        contestant.step(on_device(batch, device))
        wait_for(device)
        tokens = int((batch["labels"] >= 0).sum())
        clock.count(images=IMAGES, tokens=tokens, share=number / len(loaded))
    return clock.speed()["tokens_per_s"]


def train_tokens_per_s(folder: Path, *, device: torch.device, batches: int) -> float:
    """The last step's figure in the metrics.jsonl of a run of one epoch."""
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as run:
        config = TrainConfig.model_validate(
            {
                "data": {"path": "unused"},
                "encoder": {"name": "unused"},
                "featurize": {},
                "model": {
                    "family": "gpt2_cross",
                    "language_model": str(folder),
                    "head_dim": 64,
                    "lora": {"rank": 16},
                },
                "train": {
                    "run": run,
                    "epochs": 1,
                    "batch_size": IMAGES,
                    "precision": "bfloat16",
                    "device": device.type,
                    "cpus_per_worker": torch.get_num_threads(),
                },
            }
        )
        rows = ray.data.from_items([row for batch in range(batches) for row in rows_of(batch)]).materialize()
        encoder = EncoderInfo(
            config=EncoderConfig(name="unused"), fingerprint="", vision_dim=VISION_DIM, patches=PATCHES
        )
        fit(
            config,
            run=run,
            rows=Rows(
                train=rows,
                val=None,
                without=partial(without, rows),
                num_images=batches * IMAGES,
                encoder=encoder,
                references={},
                samples=[],
                vocabulary=[],
            ),
        )
        steps = [row for row in read_metrics(run) if row["kind"] == "step"]
        return float(steps[-1]["tokens_per_s"])
