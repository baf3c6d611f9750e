"""What trackers wrote is read back: W&B's offline file, which `wandb sync` would send, and TensorBoard's events."""

import json
import logging
import os
import resource
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_family import ENCODER, ToyConfig, make_base, make_toy

from raycap.checkpoint import RunCheckpoints, read_manifest
from raycap.decoding import DecodingConfig
from raycap.pages import thumbnail
from raycap.train.config import TrackingConfig
from raycap.train.report import Sample, SampleCaption
from raycap.train.tracking import Guarded, open_trackers
from raycap.train.wandb_run import WandbRun

BLOCK = 32768  # the file is a LevelDB log: https://github.com/google/leveldb/blob/main/doc/log_format.md
FULL, LAST = 1, 4
SAMPLES = [
    Sample(
        key=grey,
        image_id=name,
        photo=thumbnail(np.full((20, 30, 3), grey, np.uint8)),
        references=["one", "two"],
    )
    for name, grey in {"a": 90, "b": 180}.items()
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ToyConfig:
    return make_base(tmp_path_factory.mktemp("base"))


def save(run: Path, config: ToyConfig, *, epoch: int, **metrics: float) -> str:
    """A checkpoint of ten steps an epoch."""
    return RunCheckpoints(str(run)).save_step(
        make_toy(config, seed=epoch),
        model_config=config,
        tokenizer=config.load_tokenizer(),
        encoder=ENCODER,
        decoding=DecodingConfig(),
        metrics=metrics,
        step=10 * epoch,
        epoch=epoch,
    )


def captions(*epochs: int) -> list[SampleCaption]:
    """Of both samples after these epochs; the first epoch's without scores, as runs of before have it."""
    return [
        SampleCaption(epoch, sample, f"{sample.image_id} after {epoch}", None if epoch == 1 else epoch / 4)
        for epoch in epochs
        for sample in SAMPLES
    ]


def wandb_run(run: Path, **settings: Any) -> WandbRun:
    tracking = TrackingConfig.model_validate({"wandb": "offline", "project": "tests", **settings})
    return WandbRun(tracking, run=str(run), config={"optim": {"lr": 0.5}})


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


def finished_records(path: Path) -> list[Any]:
    """All records, once W&B's own process has written the last of them."""
    for _ in range(100):
        found = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"{path} has no end")


def only_file(run: Path) -> Path:
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    return path


def history(found: list[Any]) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def artifacts(found: list[Any], kind: str) -> list[Any]:
    """The artifacts of a kind, in the order in which they were logged."""
    all_kinds = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    return [artifact for artifact in all_kinds if artifact.type == kind]


def table(run: Path, row: dict[str, Any]) -> list[list[Any]]:
    """The rows of a logged table, photos left out."""
    path = next(run.glob(f"wandb/*/files/{row['samples/path']}"))
    content = json.loads(path.read_text())
    assert content["columns"] == ["epoch", "image_id", "photo", "generated", "score", "references"]
    return [[*cells[:2], *cells[3:]] for cells in content["data"]]


def test_offline_run_holds_config_curves_and_the_captions_of_every_epoch(tmp_path: Path) -> None:
    tracker = wandb_run(tmp_path, name="mine", group="a-sweep", checkpoints="never")
    speed = {"train/images_per_s": 12.5, "train/tokens_per_s": 310.0}
    tracker.step(
        {"step": 10, "epoch": 1, "train/loss": 0.5, "train/lr": 0.1, "train/lr_lora": 0.2, "gate/00": 0.25}
        | speed
    )
    tracker.epoch({"step": 10, "epoch": 1, "epoch/val_loss": 2.5, "epoch/gpu_memory_gib": 3.5}, captions(1))
    tracker.epoch({"step": 20, "epoch": 2, "epoch/val_loss": 2.0, "gate/00": 0.5}, captions(1, 2))
    tracker.close()

    found = finished_records(only_file(tmp_path))
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group) == ("tests", "mine", "a-sweep")
    assert {item.key: item.value_json for item in run.config.update}["optim"] == '{"lr":0.5}'
    step, first, second = history(found)
    assert {
        "step": 10,
        "epoch": 1,
        "train/loss": 0.5,
        "train/lr": 0.1,
        "gate/00": 0.25,
    }.items() <= step.items()
    assert {"train/lr_lora": 0.2, **speed}.items() <= step.items()
    assert (first["step"], first["epoch/val_loss"], first["epoch/gpu_memory_gib"]) == (10, 2.5, 3.5)
    assert (second["epoch"], second["gate/00"]) == (2, 0.5)
    of_first = [[1, "a", "a after 1", None, "one\ntwo"], [1, "b", "b after 1", None, "one\ntwo"]]
    of_second = [[2, "a", "a after 2", 0.5, "one\ntwo"], [2, "b", "b after 2", 0.5, "one\ntwo"]]
    assert table(tmp_path, first) == of_first
    assert table(tmp_path, second) == [*of_first, *of_second]
    for logged in artifacts(found, "run_table"):
        photos = [entry for entry in logged.manifest.contents if entry.path.startswith("media/images/")]
        assert len(photos) == 2  # each once, for all its rows
        assert all(Path(photo.local_path).is_relative_to(tmp_path / "wandb") for photo in photos)
    assert "WANDB_DATA_DIR" not in os.environ
    assert not artifacts(found, "model")


def test_a_resumed_run_keeps_its_id_and_the_table_its_earlier_epochs(tmp_path: Path) -> None:
    first = wandb_run(tmp_path, checkpoints="never")
    first.epoch({"step": 10, "epoch": 1}, captions(1))
    first.close()
    before = only_file(tmp_path)
    second = wandb_run(tmp_path, checkpoints="never")
    assert second.run.id == first.run.id
    second.epoch({"step": 20, "epoch": 2}, captions(1, 2))
    second.close()
    (path,) = set(tmp_path.glob("wandb/offline-run-*/run-*.wandb")) - {before}
    (row,) = history(finished_records(path))
    assert [cells[:2] for cells in table(tmp_path, row)] == [[1, "a"], [1, "b"], [2, "a"], [2, "b"]]


class FakeRun:
    """Takes what is logged, at no cost."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def test_tables_of_many_epochs_grow_with_them_and_not_with_their_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole table after each of a thousand epochs would be gigabytes."""
    tracker = wandb_run(tmp_path, checkpoints="never")
    fake = FakeRun()
    with monkeypatch.context() as patched:
        patched.setattr(tracker.run, "log", fake.log)
        patched.setattr(tracker.wandb, "Table", FakeTable)
        for epoch in range(1, 301):
            tracker.epoch({"step": epoch, "epoch": epoch}, captions(*range(1, epoch + 1)))
        tracker.close()
    sizes = [row["samples"].size // 2 for row in fake.rows if "samples" in row]
    assert sizes[:20] == list(range(1, 21))
    assert sizes[-1] == 300
    assert sum(sizes) < 22 * 300
    assert len([row for row in fake.rows if "epoch" in row]) == 300


class FakeTable:
    """Counts its rows."""

    def __init__(self, **_: Any) -> None:
        self.size = 0

    def add_data(self, *_: Any) -> None:
        self.size += 1


def test_another_run_at_the_same_path_is_another_run(tmp_path: Path) -> None:
    """The id was made from the path: a new run went on with the curves of a deleted one, or of another machine's."""
    ids = []
    for _ in range(2):
        tracker = wandb_run(tmp_path / "run", checkpoints="never")
        tracker.close()
        ids.append(tracker.run.id)
        shutil.rmtree(tmp_path / "run")
    assert ids[0] != ids[1]


def test_kept_checkpoints_are_artifacts_with_metadata_and_names(tmp_path: Path, base: ToyConfig) -> None:
    """The best by loss, the best by metric and the last; the second epoch is none of them and no artifact.

    W&B's client says `latest` of each: the last one keeps it.
    """
    tracker = wandb_run(tmp_path)
    for epoch, (loss, cider) in enumerate([(1.5, 0.2), (1.8, 0.3), (1.7, 0.5), (1.9, 0.4)], start=1):
        save(tmp_path, base, epoch=epoch, val_loss=loss, cider_d=cider)
        tracker.saved()
    tracker.close()
    found = artifacts(finished_records(only_file(tmp_path)), "model")
    assert [set(artifact.aliases) for artifact in found] == [
        {"step-00000010", "best-loss", "latest"},
        {"step-00000030", "best-metric", "latest"},
        {"step-00000040", "last", "latest"},
    ]
    (name,) = {artifact.name for artifact in found}
    assert name == f"checkpoint-{tracker.run.id}"
    manifest = read_manifest(f"{tmp_path}/checkpoints/step-00000030")
    metadata = json.loads(found[1].metadata)
    assert (metadata["epoch"], metadata["step"], metadata["family"]) == (3, 30, "toy")
    assert metadata["metrics"] == {"val_loss": 1.7, "cider_d": 0.5}
    assert metadata["digest"] == manifest.digest
    files = {entry.path: entry.size for entry in found[1].manifest.contents}
    assert all(
        Path(e.local_path).is_relative_to(tmp_path / "checkpoints") for e in found[1].manifest.contents
    )
    assert files["manifest.json"] > 0
    assert {path: files[path] for path in manifest.files} == {
        path: entry.size for path, entry in manifest.files.items()
    }


def test_checkpoints_of_every_epoch_where_they_are_wanted(tmp_path: Path, base: ToyConfig) -> None:
    """What has its names already is not logged again."""
    tracker = wandb_run(tmp_path, checkpoints="epoch")
    for epoch, cider in enumerate([0.5, 0.3], start=1):
        save(tmp_path, base, epoch=epoch, val_loss=2.0 - 0.1 * epoch, cider_d=cider)
        tracker.saved()
        tracker.saved()
    tracker.close()
    found = artifacts(finished_records(only_file(tmp_path)), "model")
    assert [set(artifact.aliases) for artifact in found] == [
        {"step-00000010", "best-metric", "best-loss", "last", "latest"},
        {"step-00000020", "best-loss", "last", "latest"},
    ]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B's server is nowhere; wandb reads the environment once, and does so anew after a teardown."""
    import wandb

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens on the port of `discard`
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    wandb.teardown()
    yield
    monkeypatch.undo()
    wandb.teardown()


@pytest.mark.usefixtures("no_network")
def test_a_run_that_cannot_reach_wandb_is_kept_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """wandb.init raised where the network was down: Ray lost the worker, again and again, and gave up."""
    tracker = wandb_run(tmp_path, wandb="online", checkpoints="never")
    assert "W&B cannot be reached" in caplog.text
    assert f"wandb sync {only_file(tmp_path).parent}" in caplog.text
    tracker.step({"step": 10, "train/loss": 0.5})
    tracker.close()
    (row,) = history(finished_records(only_file(tmp_path)))
    assert row["train/loss"] == 0.5


def test_a_run_that_cannot_be_sent_in_time_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb waited for a lost network without end, and the finished training with it."""
    tracker = wandb_run(tmp_path, checkpoints="never")
    finish = tracker.run.finish

    def late() -> None:
        finish()
        raise TimeoutError("Timed out finishing run.")

    assert tracker.run.settings.finish_timeout == 600
    assert tracker.run.settings.finish_timeout_raises
    monkeypatch.setattr(tracker.run, "finish", late)
    with pytest.raises(TimeoutError, match=f"wandb sync {only_file(tmp_path).parent}"):
        tracker.close()


class Failing:
    """A tracker whose service goes away."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def step(self, row: Any) -> None:
        self.calls.append("step")
        raise ConnectionResetError("Connection lost")

    def epoch(self, row: Any, captions: Any) -> None:
        self.calls.append("epoch")

    def saved(self) -> None:
        self.calls.append("saved")

    def close(self) -> None:
        self.calls.append("close")
        raise TimeoutError("Timed out finishing run.")


def test_a_failure_ends_tracking_and_not_training(caplog: pytest.LogCaptureFixture) -> None:
    """W&B's own process was killed, its client raised at the next step, and the worker was lost with it."""
    failing = Failing()
    tracker = Guarded("W&B", lambda: failing)
    tracker.step({"step": 1})
    tracker.step({"step": 10})
    tracker.epoch({"step": 10}, [])
    tracker.saved()
    tracker.close()
    assert failing.calls == ["step", "close"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "W&B has failed (ConnectionResetError: Connection lost); training goes on without, "
        "and metrics.jsonl has everything"
    )


def test_a_tracker_that_does_not_start_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    def start() -> Failing:
        raise OSError

    tracker = Guarded("TensorBoard", start)
    tracker.step({"step": 1})
    tracker.close()
    assert "TensorBoard has failed (OSError: no message)" in caplog.text


def events(run: Path) -> list[Any]:
    """Events of all files, by their names: records of length, its checksum, the event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(run.glob("tensorboard/*tfevents*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def values(found: list[Any], kind: str) -> list[tuple[str, int, Any]]:
    """(tag, step, value) of all values of a kind."""
    return [
        (value.tag, event.step, getattr(value, kind))
        for event in found
        for value in event.summary.value
        if value.WhichOneof("value") == kind
    ]


def test_tensorboard_holds_scalars_captions_and_each_photo_once(tmp_path: Path) -> None:
    tracking = TrackingConfig(tensorboard=True)
    (tracker,) = open_trackers(tracking, run=str(tmp_path), config={}, step=0)
    tracker.step({"step": 10, "epoch": 1, "train/loss": 0.5, "gate/00": 0.25})
    tracker.epoch({"step": 10, "epoch": 1, "epoch/val_loss": 2.5}, captions(1))
    tracker.epoch({"step": 20, "epoch": 2, "epoch/val_loss": 2.0}, captions(1, 2))
    tracker.saved()
    tracker.close()
    assert not tracker.failed
    found = events(tmp_path)
    assert values(found, "simple_value") == [
        ("train/loss", 10, 0.5),
        ("gate/00", 10, 0.25),
        ("epoch/val_loss", 10, 2.5),
        ("epoch/val_loss", 20, 2.0),
    ]
    texts = [(tag, step, value.string_val[0].decode()) for tag, step, value in values(found, "tensor")]
    assert texts == [
        ("samples/a/text_summary", 10, "a after 1"),
        ("samples/b/text_summary", 10, "b after 1"),
        ("samples/a/text_summary", 20, "a after 2"),
        ("samples/b/text_summary", 20, "b after 2"),
    ]
    photos = [(tag, step, image.height, image.width) for tag, step, image in values(found, "image")]
    height, width = SAMPLES[0].pixels().size[::-1]
    assert photos == [("samples/a", 10, height, width), ("samples/b", 10, height, width)]


def test_a_full_disk_ends_tensorboard_and_not_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The writing thread ended, and the eleventh number after that was waited for without end."""
    (tracker,) = open_trackers(TrackingConfig(tensorboard=True), run=str(tmp_path), config={}, step=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for step in range(1, 2000):
            tracker.step({"step": step, "epoch": 1, "train/loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    tracker.close()
    assert tracker.failed
    assert caplog.text.count("TensorBoard has failed (OSError") == 1


@pytest.mark.parametrize("step", [0, 12])  # 0: lost before the first checkpoint
def test_tensorboard_hides_what_a_resume_has_taken_back(tmp_path: Path, step: int) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    (tracker,) = open_trackers(TrackingConfig(tensorboard=True), run=str(tmp_path), config={}, step=step)
    tracker.close()
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [step + 1]
