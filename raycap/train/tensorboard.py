"""A run in TensorBoard: scalars and sample captions, in RUN/tensorboard. Read with `tensorboard --logdir RUN`.

Written by tensorboardX, which Ray needs anyway. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycap import storage
from raycap.train.report import SampleCaption

FOLDER = "tensorboard"
PLACE = {"step", "epoch"}


class TensorBoard:
    """Event files of a run; of one that is resumed, what came after the step it goes on from is hidden."""

    def __init__(self, *, run: str, step: int) -> None:
        from tensorboardX import SummaryWriter

        folder = Path(storage.filesystem(run)[1]) / FOLDER
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self.shown: set[str] = set()

    def step(self, row: Mapping[str, Any]) -> None:
        """Write a step's numbers."""
        for tag, value in row.items():
            if tag not in PLACE:
                self.writer.add_scalar(tag, value, row["step"])

    def epoch(self, row: Mapping[str, Any], captions: Sequence[SampleCaption]) -> None:
        """Write an epoch's numbers and captions; each photo once."""
        self.step(row)
        for caption in captions:
            name = f"samples/{caption.sample.image_id}"
            if caption.epoch == row["epoch"]:
                self.writer.add_text(name, caption.text, row["step"])
            if name not in self.shown:
                pixels = np.asarray(caption.sample.pixels().convert("RGB"))  # (height, width, 3)
                self.writer.add_image(name, pixels, row["step"], dataformats="HWC")
                self.shown.add(name)
        self.writer.flush()

    def saved(self) -> None:
        """Nothing: TensorBoard has no place for files."""

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
