"""What rank 0 makes of a run besides checkpoints: metrics.jsonl, loss.png, samples.html, W&B, the screen.

Knows nothing of models; it is given numbers and captions.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycap import storage
from raycap.checkpoint import LOSS_KEY
from raycap.train.report import Sample, loss_figure, samples_page
from raycap.train.screen import Board
from raycap.train.tracking import Tracker

METRICS = "metrics.jsonl"
LOSS_FIGURE = "loss.png"
SAMPLES_PAGE = "samples.html"
STEP, EPOCH = "step", "epoch"  # the two kinds of rows
POST_EVERY_S = 1.0


class MetricsLog:
    """metrics.jsonl: a row for every optimizer step and one for every epoch, in order, none twice."""

    def __init__(self, run: str, *, step: int, epoch: int) -> None:
        """Open the log of a run that stands at `step` with `epoch` epochs done; later rows are dropped."""
        self.path = storage.join(run, METRICS)
        self.rows = [
            row
            for row in read_metrics(run)
            if row["step"] <= step and (row["kind"] == STEP or row["epoch"] <= epoch)
        ]
        self.local = Path(storage.filesystem(self.path)[1]) if storage.is_local(self.path) else None
        self._rewrite()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row. On an object store nothing can be appended: there the file is renewed every epoch."""
        self.rows.append(dict(row))
        if self.local is None:
            if row["kind"] == EPOCH:
                self._rewrite()
            return
        with self.local.open("a", encoding="utf-8") as file:
            file.write(_line(row))

    def _rewrite(self) -> None:
        storage.write_bytes(self.path, "".join(_line(row) for row in self.rows).encode())


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl; a last line that a killed process left half-written is passed over."""
    path = storage.join(run, METRICS)
    if not storage.exists(path):
        return []
    lines = storage.read_bytes(path).decode("utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@dataclass
class Recorder:
    """Takes what happens in the loop and puts it where people look."""

    run: str
    epochs: int
    metric: str
    log: MetricsLog
    board: Board | None
    tracker: Tracker | None
    samples: Sequence[Sample]
    clock: Clock
    state: dict[str, Any] = field(default_factory=dict)

    def step(self, row: Mapping[str, Any], *, share: float) -> None:
        """An optimizer step: `row` has step, epoch, loss, lr, images, tokens; `share` of the run is done."""
        self.clock.count(images=row["images"], tokens=row["tokens"], share=share)
        row = rounded({**row, **self.clock.speed()})
        self.log.append({"kind": STEP, **row})
        if self.tracker:
            self.tracker.step(row)
        self.state = {
            **row,
            "epochs": self.epochs,
            "share": share,
            "left_s": self.clock.left_s(),
            "phase": "",
        }
        if self.clock.due():
            self.show()

    def validating(self, num_images: int) -> None:
        """Training pauses for validation."""
        self.clock.pause()
        self.state["phase"] = f"validating on {num_images:,} images"
        self.show()

    def epoch(self, row: Mapping[str, Any], captions: Mapping[int, str]) -> None:
        """The end of an epoch: `row` has step, epoch, train_loss and the validation's metrics."""
        chosen = {sample.image_id: captions[sample.key] for sample in self.samples if sample.key in captions}
        row = rounded(row)
        self.log.append({"kind": EPOCH, **row, "samples": chosen})
        storage.write_bytes(
            storage.join(self.run, LOSS_FIGURE), loss_figure(self.log.rows, metric=self.metric)
        )
        page = samples_page(self.samples, self.log.rows, title=self.run.rstrip("/").rsplit("/", 1)[-1])
        storage.write_bytes(storage.join(self.run, SAMPLES_PAGE), page.encode())
        if self.tracker:
            self.tracker.epoch(row, self.samples, chosen)
        shown = {name: row[name] for name in ("train_loss", LOSS_KEY, self.metric) if name in row}
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        self.say(f"epoch {row['epoch']}/{self.epochs} done  step {row['step']}  {numbers}")

    def say(self, text: str) -> None:
        """A line for the screen."""
        if self.board:
            self.board.say(text)

    def show(self) -> None:
        """Renew the screen."""
        if self.board and "step" in self.state:
            self.board.show(self.state)

    def close(self, checkpoint: str = "") -> None:
        """The end of the run; `checkpoint` goes to W&B as an artifact."""
        if self.tracker:
            self.tracker.close(checkpoint)


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Floats to seven digits, which is what float32 has."""
    return {name: float(f"{v:.7g}") if isinstance(v, float) else v for name, v in row.items()}


class Clock:
    """Speed over the last steps and the time left, both in wall-clock time of this attempt."""

    WINDOW_S = 10.0

    def __init__(self, *, share: float) -> None:
        self.begin = self.posted = time.monotonic()
        self.first_share = self.share = share
        self.counted: list[tuple[float, int, int]] = [(self.begin, 0, 0)]  # time, images, tokens so far

    def pause(self) -> None:
        """What follows is not training: speed is counted anew."""
        self.counted = [(time.monotonic(), 0, 0)]

    def count(self, *, images: int, tokens: int, share: float) -> None:
        """A step is done."""
        now = time.monotonic()
        _, images_before, tokens_before = self.counted[-1]
        self.counted.append((now, images_before + images, tokens_before + tokens))
        while len(self.counted) > 2 and now - self.counted[1][0] > self.WINDOW_S:
            self.counted.pop(0)
        self.share = share

    def speed(self) -> dict[str, float]:
        """images_per_s and tokens_per_s."""
        (first, images, tokens), (last, images_now, tokens_now) = self.counted[0], self.counted[-1]
        elapsed = max(last - first, 1e-9)
        return {
            "images_per_s": round((images_now - images) / elapsed, 1),
            "tokens_per_s": round((tokens_now - tokens) / elapsed, 1),
        }

    def left_s(self) -> float:
        """Seconds until the end of the run at the pace so far, validation included."""
        done = self.share - self.first_share
        return math.inf if done <= 0 else (time.monotonic() - self.begin) * (1.0 - self.share) / done

    def due(self) -> bool:
        """Whether the screen should be renewed; true once a second at most."""
        now = time.monotonic()
        if now - self.posted < POST_EVERY_S:
            return False
        self.posted = now
        return True


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
