"""W&B offline: what was logged is read back from the file that `wandb sync` would send."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raycap.pages import thumbnail
from raycap.train.config import TrackingConfig
from raycap.train.report import Sample
from raycap.train.tracking import Tracker

BLOCK = 32768  # the file is a LevelDB log: https://github.com/google/leveldb/blob/main/doc/log_format.md
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""  # seven bytes of W&B's own header
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_offline_run_holds_metrics_samples_and_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    tracking = TrackingConfig(wandb="offline", project="tests", name="mine", group="a-sweep")
    tracker = Tracker(tracking, run=str(tmp_path), config={"optim": {"lr": 0.5}})
    for step in range(1, 21):
        tracker.step({"step": step, "loss": 1.0 / step, "lr": 0.1})
    photo = thumbnail(np.full((20, 30, 3), 90, dtype=np.uint8))
    samples = [Sample(key=1, image_id="a.jpg", photo=photo, references=["one", "two"])]
    tracker.epoch({"step": 20, "epoch": 1, "val_loss": 2.5}, samples, {"a.jpg": "a dog"})
    tracker.close(str(checkpoint))

    found = finished_records(tmp_path)
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group) == ("tests", "mine", "a-sweep")
    assert {item.key: item.value_json for item in run.config.update}["optim"] == '{"lr":0.5}'
    history = [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    losses = [(row["step"], row["train/loss"]) for row in history if "train/loss" in row]
    assert losses == [(10, 0.1), (20, 0.05)]  # one step in ten
    (epoch,) = [row for row in history if "epoch/val_loss" in row]
    assert (epoch["step"], epoch["epoch"], epoch["epoch/val_loss"]) == (20, 1, 2.5)
    table = json.loads(next(tmp_path.glob("wandb/*/files/media/table/*.json")).read_text())
    assert table["columns"] == ["image_id", "photo", "generated", "references"]
    assert [table["data"][0][index] for index in (0, 2, 3)] == ["a.jpg", "a dog", "one\ntwo"]
    (model,) = [record.artifact for record in found if record.artifact.type == "model"]
    assert [entry.path for entry in model.manifest.contents] == ["model.safetensors"]


def finished_records(run: Path) -> list[Any]:
    """All records, once W&B's own process has written the last of them."""
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):
        found = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"{path} has no end")
