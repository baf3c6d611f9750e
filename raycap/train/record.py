"""What rank 0 makes of a run besides checkpoints: metrics.jsonl, two figures, samples.html, trackers, the screen.

Knows nothing of models; it is given numbers and captions.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycap import storage
from raycap.checkpoint import LOSS_KEY
from raycap.train.curves import curves_figure
from raycap.train.report import Sample, loss_figure, sample_captions, samples_page
from raycap.train.screen import Board
from raycap.train.tracking import Tracker, warn_of_failure

METRICS = "metrics.jsonl"
LOSS_FIGURE = "loss.png"
CURVES_FIGURE = "curves.png"
SAMPLES_PAGE = "samples.html"
STEP, EPOCH = "step", "epoch"  # the two kinds of rows
POST_EVERY_S = 1.0
TRACK_EVERY_STEPS = 10
PLACE = {"step", "epoch"}


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
        with self.local.open("ab") as file:
            file.write(_line(row))

    def _rewrite(self) -> None:
        storage.write_bytes(self.path, b"".join(_line(row) for row in self.rows))


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl; a last line that a killed process left half-written is passed over."""
    path = storage.join(run, METRICS)
    if not storage.exists(path):
        return []
    *lines, _ = storage.read_bytes(path).split(
        b"\n"
    )  # str.splitlines would split within a caption, at U+2028
    return [json.loads(line) for line in lines]


@dataclass
class Recorder:
    """Takes what happens in the loop and puts it where people look."""

    run: str
    epochs: int
    metric: str
    log: MetricsLog
    board: Board | None
    trackers: Sequence[Tracker]
    samples: Sequence[Sample]
    clock: Clock
    state: dict[str, Any] = field(default_factory=dict)

    def step(self, row: Mapping[str, Any], *, share: float) -> None:
        """An optimizer step: `row` has step, epoch, loss, lr, images, tokens; `share` of the run is done.

        What is watched stands in it under "watched", where `tracks` says so.
        """
        self.clock.count(images=row["images"], tokens=row["tokens"], share=share)
        row = rounded({**row, **self.clock.speed()})
        self.log.append({"kind": STEP, **row})
        if tracks(row["step"]):
            for tracker in self.trackers:
                tracker.step(flat("train", row))
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

    def epoch(
        self, row: Mapping[str, Any], captions: Mapping[int, str], scores: Mapping[int, float] | None = None
    ) -> None:
        """The end of an epoch.

        Args:
            row: step, epoch, train_loss, the validation's metrics; and "watched" as in a step's row.
            captions: of the validation images by image key.
            scores: of theirs, each by itself, by the run's metric.
        """
        row = rounded(row)
        self.log.append({"kind": EPOCH, **row, **self._of_samples(captions, scores or {})})
        self._draw()
        for tracker in self.trackers:
            tracker.epoch(flat("epoch", row), sample_captions(self.samples, self.log.rows))
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

    def saved(self) -> None:
        """An epoch's checkpoint is written."""
        for tracker in self.trackers:
            tracker.saved()

    def close(self) -> None:
        """The end of the run."""
        for tracker in self.trackers:
            tracker.close()

    def _draw(self) -> None:
        """The figures and the page, anew; one that fails is tried again after the next epoch."""
        title = self.run.rstrip("/").rsplit("/", 1)[-1]
        pictures: dict[str, Callable[[], bytes]] = {
            LOSS_FIGURE: lambda: loss_figure(self.log.rows, metric=self.metric),
            CURVES_FIGURE: lambda: curves_figure(self.log.rows),
            SAMPLES_PAGE: lambda: samples_page(self.samples, self.log.rows, title=title).encode(
                errors="backslashreplace"
            ),
        }
        for name, draw in pictures.items():
            try:
                storage.write_bytes(storage.join(self.run, name), draw())
            except Exception as error:  # plotting and stores raise anything; none of it is worth the training
                warn_of_failure(name, error)

    def _of_samples(self, captions: Mapping[int, str], scores: Mapping[int, float]) -> dict[str, Any]:
        there = [sample for sample in self.samples if sample.key in captions]
        scored = {s.image_id: scores[s.key] for s in there if s.key in scores}
        return {
            "samples": {sample.image_id: captions[sample.key] for sample in there},
            **({"sample_scores": rounded(scored)} if scored else {}),
        }


def tracks(step: int) -> bool:
    """Whether a step goes to the trackers, and what is watched is looked at: the first, and one in ten."""
    return step == 1 or step % TRACK_EVERY_STEPS == 0


def flat(group: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by tag: `group`/name; step, epoch and what is watched under their own names."""
    named = {name if name in PLACE else f"{group}/{name}": v for name, v in row.items() if name != "watched"}
    return {**named, **row.get("watched", {})}


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Floats to seven digits, which is what float32 has."""
    return {name: _rounded(value) for name, value in row.items()}


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


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return rounded(value)
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _line(row: Mapping[str, Any]) -> bytes:
    """A row in UTF-8; what that cannot hold (a file name's odd byte) as JSON's own \\udcff, which reads back."""
    return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
