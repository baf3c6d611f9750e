"""A run in TensorBoard: scalars and sample captions, in RUN/tensorboard. Read with `tensorboard --logdir RUN`.

Written by tensorboardX, which Ray needs anyway. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycap import storage
from raycap.train.report import SampleCaption

FOLDER = "tensorboard"
PLACE = {"step", "epoch"}
FLUSH_EVERY_S = 30.0


class TensorBoard:
    """Event files of a run; what earlier attempts wrote after the step it goes on from is hidden.

    Written in the caller's own thread. tensorboardX's SummaryWriter has a thread for it, which a full disk ends; the
    caller then waits for ever for room in its queue.
    """

    def __init__(self, *, run: str, step: int) -> None:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = Path(storage.filesystem(run)[1]) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self.summary = summary
        self.event = Event
        self.writer = EventsWriter(str(folder / "events"))
        self.flushed = time.monotonic()
        self.shown: set[str] = set()
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def step(self, row: Mapping[str, Any]) -> None:
        """Write a step's numbers."""
        for tag, value in row.items():
            if tag not in PLACE:
                self._write(row["step"], summary=self.summary.scalar(tag, value))
        if time.monotonic() - self.flushed > FLUSH_EVERY_S:
            self._flush()

    def epoch(self, row: Mapping[str, Any], captions: Sequence[SampleCaption]) -> None:
        """Write an epoch's numbers and captions; each photo once."""
        self.step(row)
        for caption in captions:
            name = f"samples/{caption.sample.image_id}"
            if caption.epoch == row["epoch"]:
                self._write(row["step"], summary=self.summary.text(name, caption.text))
            if name not in self.shown:
                pixels = np.asarray(caption.sample.pixels().convert("RGB"))  # (height, width, 3)
                self._write(row["step"], summary=self.summary.image(name, pixels, dataformats="HWC"))
                self.shown.add(name)
        self._flush()

    def saved(self) -> None:
        """Nothing: TensorBoard has no place for files."""

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

    def _write(self, step: int, **what: Any) -> None:
        self.writer.write_event(self.event(wall_time=time.time(), step=step, **what))

    def _flush(self) -> None:
        self.writer.flush()
        self.flushed = time.monotonic()
