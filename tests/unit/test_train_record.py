"""What a run leaves for people: rows without gaps or repeats, a figure, a page, lines on the screen."""

import io
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from raycap.pages import thumbnail
from raycap.train.curves import curves_figure, panels, thinned
from raycap.train.record import Clock, MetricsLog, Recorder, read_metrics
from raycap.train.report import Sample, loss_figure, samples_page, smoothed
from raycap.train.screen import clock_time, describe, draw_lines


def step_row(step: int, epoch: int = 1) -> dict[str, Any]:
    return {"kind": "step", "step": step, "epoch": epoch, "loss": 1.0 / step}


def epoch_row(step: int, epoch: int, **metrics: float) -> dict[str, Any]:
    return {"kind": "epoch", "step": step, "epoch": epoch, **metrics, "samples": {}}


def places(run: Path) -> list[tuple[str, int]]:
    return [(row["kind"], row["step"]) for row in read_metrics(str(run))]


def test_a_resume_drops_what_it_will_do_again(tmp_path: Path) -> None:
    log = MetricsLog(str(tmp_path), step=0, epoch=0)
    for row in (step_row(1), step_row(2), epoch_row(2, 1), step_row(3, 2), step_row(4, 2), epoch_row(4, 2)):
        log.append(row)
    MetricsLog(str(tmp_path), step=3, epoch=1).append(step_row(4, 2))
    assert places(tmp_path) == [("step", 1), ("step", 2), ("epoch", 2), ("step", 3), ("step", 4)]


def test_an_epoch_whose_end_was_not_saved_is_validated_again(tmp_path: Path) -> None:
    """The last step of the epoch was saved, its validation was written down, the end of the epoch was not saved."""
    log = MetricsLog(str(tmp_path), step=0, epoch=0)
    for row in (step_row(1), step_row(2), epoch_row(2, 1)):
        log.append(row)
    MetricsLog(str(tmp_path), step=2, epoch=0)
    assert places(tmp_path) == [("step", 1), ("step", 2)]


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    MetricsLog(str(tmp_path), step=0, epoch=0).append(step_row(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert places(tmp_path) == [("step", 1)]


@pytest.mark.parametrize("text", ["half\u2028half", "half\x85half", "a file's odd \udcff byte"])
def test_any_text_is_read_back(tmp_path: Path, text: str) -> None:
    """A caption with a line separator made the run's next --resume fail; half a surrogate pair, the run itself."""
    log = MetricsLog(str(tmp_path), step=0, epoch=0)
    log.append({**epoch_row(1, 1), "samples": {text: text}})
    assert MetricsLog(str(tmp_path), step=1, epoch=1).rows == log.rows


class FakeBoard:
    """Remembers what is shown."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.lines: list[str] = []

    def show(self, state: dict[str, Any]) -> None:
        self.state = dict(state)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def read(self) -> tuple[dict[str, Any], list[str]]:
        lines, self.lines = self.lines, []
        return self.state, lines


class FakeTracker:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.epochs: list[Any] = []
        self.calls: list[str] = []

    def step(self, row: Any) -> None:
        self.steps.append(row)

    def epoch(self, row: Any, captions: Any) -> None:
        self.epochs.append((row, captions))

    def saved(self) -> None:
        self.calls.append("saved")

    def close(self) -> None:
        self.calls.append("close")


def make_recorder(
    run: Path, board: FakeBoard | None = None, *trackers: FakeTracker, step: int = 0, epoch: int = 0
) -> Recorder:
    photo = thumbnail(np.full((40, 60, 3), 200, dtype=np.uint8))
    return Recorder(
        run=str(run),
        epochs=2,
        metric="cider_d",
        log=MetricsLog(str(run), step=step, epoch=epoch),
        board=board,  # type: ignore[arg-type]
        trackers=trackers,
        samples=[Sample(key=7, image_id="dog<1>.jpg", photo=photo, references=["A dog & a cat."])],
        clock=Clock(share=0.0),
    )


def test_recorder_writes_rows_figure_page_and_screen(tmp_path: Path) -> None:
    board = FakeBoard()
    recorder = make_recorder(tmp_path, board)
    recorder.clock.posted -= 10  # the screen is due
    row = {"step": 1, "epoch": 1, "loss": 1 / 3, "lr": 1e-3, "images": 8, "tokens": 100}
    recorder.step(row, share=0.25)
    assert board.state["share"] == 0.25
    assert board.state["epochs"] == 2
    metrics = {"train_loss": 2.0, "val_loss": 2.5, "cider_d": 0.4}
    recorder.epoch({"step": 1, "epoch": 1, **metrics}, {7: "A <b>dog</b> runs.", 8: "not shown"})
    step, epoch = read_metrics(str(tmp_path))
    assert step["loss"] == 0.3333333
    assert epoch == {
        "kind": "epoch",
        "step": 1,
        "epoch": 1,
        **metrics,
        "samples": {"dog<1>.jpg": "A <b>dog</b> runs."},
    }
    with Image.open(tmp_path / "loss.png") as figure:
        assert figure.size == (960, 540)
    page = (tmp_path / "samples.html").read_text()
    assert "A &lt;b&gt;dog&lt;/b&gt; runs." in page
    assert "A dog &amp; a cat." in page
    assert "dog&lt;1&gt;.jpg" in page
    assert board.lines == ["epoch 1/2 done  step 1  train_loss 2.000  val_loss 2.500  cider_d 0.400"]


def test_a_picture_that_cannot_be_drawn_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever matplotlib raised ended the worker, three times, and then the run."""

    def fail(rows: Any) -> bytes:
        raise RuntimeError("no fonts here")

    tracker = FakeTracker()
    recorder = make_recorder(tmp_path, None, tracker)
    with monkeypatch.context() as patched:
        patched.setattr("raycap.train.record.curves_figure", fail)
        recorder.epoch({"step": 1, "epoch": 1}, {7: "an odd \udcff byte"})
    assert caplog.text.count("curves.png has failed (RuntimeError: no fonts here)") == 1
    assert not (tmp_path / "curves.png").exists()
    assert "an odd \\udcff byte" in (tmp_path / "samples.html").read_text()
    assert len(tracker.epochs) == 1
    recorder.epoch({"step": 2, "epoch": 2}, {7: "a dog"})
    assert (tmp_path / "curves.png").exists()


def test_trackers_get_one_step_in_ten_and_the_captions_of_every_epoch(tmp_path: Path) -> None:
    tracker = FakeTracker()
    recorder = make_recorder(tmp_path, None, tracker)
    place = {"epoch": 1, "loss": 2.0, "images": 8, "tokens": 100}
    for step in range(1, 21):
        recorder.step({"step": step, "lr": 0.5, "watched": {"gate/00": step / 3}, **place}, share=0.0)
    assert [(row["step"], row["gate/00"]) for row in tracker.steps] == [
        (1, 0.3333333),
        (10, 3.333333),
        (20, 6.666667),
    ]
    assert tracker.steps[0].keys() >= {
        "step",
        "epoch",
        "train/lr",
        "train/images_per_s",
        "train/tokens_per_s",
    }
    assert read_metrics(str(tmp_path))[9]["watched"] == {"gate/00": 3.333333}
    recorder.epoch({"step": 10, "epoch": 1, "val_loss": 2.0}, {7: "a dog"}, {7: 1 / 3})
    resumed = make_recorder(tmp_path, None, tracker, step=10, epoch=1)
    resumed.epoch({"step": 20, "epoch": 2, "val_loss": 1.0, "watched": {"gate/00": 0.5}}, {7: "a cat"})
    row, captions = tracker.epochs[-1]
    assert row == {"step": 20, "epoch": 2, "epoch/val_loss": 1.0, "gate/00": 0.5}
    found = [(c.epoch, c.sample.image_id, c.text, c.score) for c in captions]
    assert found == [(1, "dog<1>.jpg", "a dog", 0.3333333), (2, "dog<1>.jpg", "a cat", None)]
    resumed.saved()
    resumed.close()
    assert tracker.calls == ["saved", "close"]


def test_curves_of_rates_speed_metrics_and_what_is_watched(tmp_path: Path) -> None:
    gates = {f"gate/{number:02d}": number / 100 for number in range(12)}
    steps = [{**step_row(step), "lr": 0.1, "lr_lora": 0.2, "images_per_s": 9.0} for step in range(1, 4)]
    rows = [*steps, {**epoch_row(3, 1, cider_d=0.5, gpu_memory_gib=2.5), "watched": gates}]
    found = panels(rows)
    assert list(found) == ["learning rate", "images a second", "validation", "GPU memory, peak (GiB)", "gate"]
    assert found["learning rate"] == {"lr": ([1, 2, 3], [0.1] * 3), "lr_lora": ([1, 2, 3], [0.2] * 3)}
    assert found["validation"] == {"cider_d": ([3], [0.5])}
    assert found["gate"]["gate/11"] == ([3], [0.11])
    assert Image.open(io.BytesIO(curves_figure(rows))).format == "PNG"
    assert Image.open(io.BytesIO(curves_figure([]))).format == "PNG"


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    """Every hundredth gradient norm was drawn, and the spike that one looks for was not among them."""
    assert thinned(([], [])) == ([], [])
    assert thinned(([1, 2, 3], [0.5, 0.1, 0.2])) == ([1, 2, 3], [0.5, 0.1, 0.2])
    values = [0.5] * 100_001
    values[123], values[-1] = 9.0, 0.25
    steps, kept = thinned((list(range(100_001)), values))
    assert len(kept) <= 1002
    assert (steps[-1], kept[-1]) == (100_000, 0.25)
    assert kept[steps.index(123)] == 9.0
    assert steps == sorted(set(steps))


def test_page_shows_the_newest_caption_and_keeps_the_earlier_ones() -> None:
    sample = Sample(key=1, image_id="a", photo="data:,", references=[])
    rows = [{**epoch_row(3, 1, val_loss=2.0), "samples": {"a": "first try"}}]
    rows.append({**epoch_row(6, 2, val_loss=1.5), "samples": {"a": "second try"}})
    page = samples_page([sample], rows, title="run")
    assert "<p class=generated>second try</p>" in page
    assert "<li><b>1</b> first try</li>" in page
    assert "<td>2</td><td>6</td><td>1.500</td>" in page
    assert "epoch 2, step 6" in page


@pytest.mark.parametrize(
    "rows", [[], [step_row(1)], [epoch_row(1, 1, val_loss=1.0)], [epoch_row(1, 1, cider_d=0.0)]]
)
def test_figure_of_what_there_is_so_far(rows: list[dict[str, Any]]) -> None:
    assert Image.open(io.BytesIO(loss_figure(rows, metric="cider_d"))).format == "PNG"


def test_smoothing_starts_at_the_first_value() -> None:
    assert smoothed([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    assert smoothed([1.0, 2.0])[1] == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.81))


def test_clock_measures_since_the_pause_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(share=0.5)
    assert clock.left_s() == math.inf
    now = 102.0
    clock.count(images=20, tokens=400, share=0.6)
    assert clock.speed() == {"images_per_s": 10.0, "tokens_per_s": 200.0}
    now = 110.0
    clock.pause()
    now = 111.0
    clock.count(images=30, tokens=30, share=0.75)
    assert clock.speed() == {"images_per_s": 30.0, "tokens_per_s": 30.0}
    assert clock.left_s() == pytest.approx(11.0)  # 11 s for a quarter of the run, and a quarter is left


def test_lines_on_the_screen() -> None:
    state = {"epoch": 2, "epochs": 5, "step": 140, "loss": 2.9134, "lr": 8.1e-4, "images_per_s": 412.3}
    state |= {"tokens_per_s": 29312.0, "share": 0.31, "left_s": 192.4, "phase": ""}
    line = "epoch 2/5  step 140  loss 2.913  lr 8.1e-04  412 images/s  29.3k tokens/s  31 %  left 3:12"
    assert describe(state) == line
    assert describe({**state, "phase": "validating on 8 images"}).startswith(
        "epoch 2/5  step 140  validating on 8"
    )
    assert describe({}) == "starting the workers"
    assert clock_time(3725) == "1:02:05"
    assert clock_time(math.inf) == "?"


def test_plain_screen_prints_what_is_said_and_stops() -> None:
    board, text, done = FakeBoard(), io.StringIO(), threading.Event()
    board.say("one")
    board.say("[two]")
    done.set()
    draw_lines(board, Console(file=text, width=80), done)  # type: ignore[arg-type]
    assert text.getvalue() == "one\n[two]\n"


def test_metrics_are_json_a_line(tmp_path: Path) -> None:
    MetricsLog(str(tmp_path), step=0, epoch=0).append({**step_row(1), "text": "café"})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["text"] == "café"
