"""A second family, outside raycap: what a token is followed by, given the mean of the image's features.

Registered through RAYCAP_PLUGINS=tiny_family. It can also do what tests of the loop need: write down which images
it trained on, die once at a given step, or give a loss that is not finite.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycap.decoding import DecodingConfig
from raycap.models import register
from raycap.models.base import CaptionModel, FamilyConfig
from raycap.schema import IGNORE_INDEX, Caption, CaptionBatch, StepOutput
from raycap.text import CaptionTokenizer


class TinyConfig(FamilyConfig):
    """Sizes, and the accidents a test wants."""

    family: Literal["tiny"] = "tiny"
    tokenizer: str
    width: int = 32
    dropout: float = 0.0
    log: str = ""
    """Folder: every rank of every attempt writes the keys of each batch it trains on, a line a batch."""
    die_at: int = 0
    """The first attempt's rank `die_rank` kills itself in this batch (from 1); needs `log`."""
    die_rank: int = 1
    infinite_at: int = 0
    """The loss of this batch (from 1) is infinite."""
    seconds: float = 0.0
    """A batch takes at least this long."""

    def load_tokenizer(self) -> CaptionTokenizer:
        return CaptionTokenizer.load(self.tokenizer)

    def build(self, *, tokenizer: CaptionTokenizer, vision_dim: int) -> TinyModel:
        return TinyModel(self, tokenizer=tokenizer, vision_dim=vision_dim)


class TinyModel(CaptionModel):
    """Logits of the next token from the token before it, its position and the image."""

    def __init__(self, config: TinyConfig, *, tokenizer: CaptionTokenizer, vision_dim: int) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.word = nn.Embedding(tokenizer.vocab_size, config.width)
        self.position = nn.Embedding(64, config.width)
        self.image = nn.Linear(vision_dim, config.width)
        self.head = nn.Linear(config.width, tokenizer.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("images_known", torch.zeros((), dtype=torch.int64))
        self.batches = 0

    def forward(self, batch: CaptionBatch) -> StepOutput:
        if self.training and batch["image_key"].any():
            self.batches += 1
            self.accidents(batch)
        logits = self.logits(batch["features"], batch["input_ids"], batch["position_ids"])
        labels = batch["labels"]  # (batch, tokens)
        loss = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        if self.training and self.config.infinite_at and self.batches == self.config.infinite_at:
            loss = loss * torch.inf
        return StepOutput(loss, (labels != IGNORE_INDEX).sum(), {"width": torch.tensor(self.config.width)})

    def logits(self, features: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
        image = self.image(features.float().mean(dim=1))[:, None]  # (batch, 1, width)
        return self.head(self.dropout(torch.tanh(self.word(ids) + self.position(positions) + image)))

    @torch.no_grad()
    def caption(self, features: Tensor, decoding: DecodingConfig) -> list[list[Caption]]:
        """Greedy, whatever `decoding` asks for."""
        ids = torch.full((len(features), 1), self.tokenizer.start_id)
        for position in range(decoding.max_tokens):
            logits = self.logits(features, ids[:, -1:], torch.tensor([[position]]))
            ids = torch.cat([ids, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
        return [[Caption(self.tokenizer.decode(row[1:].tolist()), 0.0)] * decoding.n for row in ids]

    def finish(self, rows: Iterable[dict[str, Any]]) -> None:
        """Count the training images: it stands for a caption bank."""
        self.images_known.fill_(len({row["image_id"] for row in rows}))

    def saved_state(self) -> dict[str, Tensor]:
        return {**super().saved_state(), "images_known": self.images_known}

    def load_saved_state(self, state: dict[str, Tensor]) -> None:
        rest = dict(state)
        self.images_known.copy_(rest.pop("images_known"))
        super().load_saved_state(rest)

    def accidents(self, batch: CaptionBatch) -> None:
        """Write the batch's keys down; be slow, or die once, where the config says so."""
        time.sleep(self.config.seconds)
        if not self.config.log:
            return
        rank = torch.distributed.get_rank()
        folder = Path(self.config.log)
        with (folder / f"{os.getpid()}-{rank}.log").open("a") as log:
            log.write(" ".join(str(key) for key in batch["image_key"].tolist()) + "\n")
        died = folder / "died"
        if self.batches == self.config.die_at and rank == self.config.die_rank and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


register("tiny", TinyConfig)
