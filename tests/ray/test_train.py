"""A run of two workers from data to captions, held against a plain loop over the same images."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared import write_prepared

from raycap import checkpoint, metrics
from raycap.choosing import choose
from raycap.schema import IGNORE_INDEX, CaptionBatch
from raycap.train import TrainConfig, resume, train
from raycap.train.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

IMAGES, VAL_IMAGES, EPOCHS = 16, 6, 3
LR, LORA_LR, DECAY, CLIP, EMA = 2e-2, 1e-2, 0.1, 0.5, 0.6
STRATEGY = "lexicographic:val_loss=0.9,train_loss"


@dataclass(frozen=True)
class Finished:
    """A run and what it was made from."""

    run: str
    config: TrainConfig


@pytest.fixture(scope="module")
def finished(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory, tiny_language_model: str, tiny_encoder: str
) -> Finished:
    """Two workers with eight images each: one step an epoch, over all images together."""
    folder = tmp_path_factory.mktemp("train")
    data = write_prepared(folder / "data", train=IMAGES, val=VAL_IMAGES)
    config = TrainConfig.model_validate(
        {
            "data": {"path": str(data)},
            "encoder": {"name": tiny_encoder},
            "featurize": {"output": str(folder / "features")},
            "model": {"family": "gpt2_cross", "language_model": tiny_language_model, "dropout": 0.0},
            "optim": {
                "lr": LR,
                "lora_lr": LORA_LR,
                "warmup_share": 0.5,
                "weight_decay": DECAY,
                "clip_norm": CLIP,
            }
            | {"ema_decay": EMA},
            "train": {"run": str(folder / "run"), "epochs": EPOCHS, "batch_size": 8, "num_workers": 2}
            | {"device": "cpu", "num_samples": 4, "seed": 3, "choose": STRATEGY},
            "tracking": {"wandb": "offline", "tensorboard": True},
            "decoding": {"max_tokens": 12},
        }
    )
    return Finished(train(config), config)


def all_images(config: TrainConfig, split: str) -> CaptionBatch:
    """All images of a split as one batch."""
    from raycap.data.loading import CaptionCollate, training_rows

    rows = training_rows(
        split, data=config.data, encoder=config.encoder, featurize=config.featurize, cache="object_store"
    )
    collate = CaptionCollate(config.model.load_tokenizer(), max_tokens=config.train.max_tokens)
    (batch,) = rows.iter_torch_batches(batch_size=1000, collate_fn=collate)
    return batch


def plain_losses(config: TrainConfig, batch: CaptionBatch) -> Iterator[float]:
    """The loop as anyone would write it, in one process: loss per token before each step."""
    torch.manual_seed(config.train.seed)
    vision_dim = batch["features"].shape[-1]
    model = config.model.build(tokenizer=config.model.load_tokenizer(), vision_dim=vision_dim).train()
    groups = [
        {"params": [p], "lr": peak, "peak": peak, "weight_decay": DECAY if p.ndim > 1 else 0.0}
        for name, peak in (("new", LR), ("lora", LORA_LR))
        for p in model.parameter_groups()[name]
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.optim.betas)
    for epoch in range(EPOCHS):
        output = model(batch)
        loss = output.loss_sum / output.count
        yield float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], CLIP)
        before, after = epoch / EPOCHS, (epoch + 1) / EPOCHS
        down = max(0.0, before - 0.5) / 0.5
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, after / 0.5) * 0.5 * (1 + math.cos(math.pi * down))
        optimizer.step()


def test_losses_equal_a_plain_loop_over_all_images(finished: Finished) -> None:
    """Nothing is lost, counted twice or weighted differently by two workers, their shards and DDP."""
    rows = [row for row in read_metrics(finished.run) if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert {row["images"] for row in rows} == {IMAGES}
    expected = list(plain_losses(finished.config, all_images(finished.config, "train")))
    assert expected[-1] < expected[0] - 0.05
    assert [row["loss"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert [row["lr"] for row in rows] == pytest.approx([LR * 2 / 3, LR, LR * 0.75])
    assert [row["lr_lora"] for row in rows] == pytest.approx([LORA_LR * 2 / 3, LORA_LR, LORA_LR * 0.75])


def test_the_runs_strategy_chooses_its_best(finished: Finished) -> None:
    index = checkpoint.RunCheckpoints(finished.run).read_index()
    epochs = [row for row in read_metrics(finished.run) if row["kind"] == "epoch"]
    chosen = choose({f"step-{row['step']:08d}": row for row in epochs}, STRATEGY)
    assert (index.metric, index.best_metric) == (STRATEGY, chosen.name)
    newest = checkpoint.read_manifest(checkpoint.resolve(f"{finished.run}/last"))
    assert list(newest.history) == ["step-00000001", "step-00000002"]
    assert checkpoint.resolve(finished.run) == checkpoint.resolve(f"{finished.run}/best-metric")


def test_validation_is_that_of_the_checkpoint(finished: Finished) -> None:
    """The averaged weights are in the checkpoint, and gave the loss and the captions of every image."""
    loaded = checkpoint.load(f"{finished.run}/last")
    assert (loaded.manifest.step, loaded.manifest.epoch) == (EPOCHS, EPOCHS)
    labels = all_images(finished.config, "train")["labels"]
    assert loaded.vocabulary == tuple(labels[labels != IGNORE_INDEX].unique().tolist())
    batch = all_images(finished.config, "val")
    with torch.no_grad():
        output = loaded.model(batch)
        decoding = finished.config.decoding.model_copy(update={"beams": 1})
        captions = [found[0].text for found in loaded.model.caption(batch["features"], decoding)]
    (row,) = [row for row in read_metrics(finished.run) if row["kind"] == "epoch" and row["epoch"] == EPOCHS]
    assert row["val_loss"] == pytest.approx(float(output.loss_sum / output.count), abs=1e-5)
    by_key = dict(zip(batch["image_key"].tolist(), captions, strict=True))
    from raycap.data.splits import read_references

    references = read_references(finished.config.data.path, "val")
    assert len(by_key) == len(references) == VAL_IMAGES
    expected = metrics.score([by_key[key] for key in references], [r.captions for r in references.values()])
    assert {name: row[name] for name in metrics.NAMES} == pytest.approx(expected, abs=1e-6)
    texts = {references[key].image_id: text for key, text in by_key.items()}
    assert len(row["samples"]) == 4
    assert row["samples"] == {name: texts[name] for name in row["samples"]}
    assert loaded.manifest.metrics["cider_d"] == pytest.approx(row["cider_d"])


def test_run_folder(finished: Finished) -> None:
    run = Path(finished.run)
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "loss.png", "curves.png", "samples.html", "checkpoints"} <= names
    page = (run / "samples.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    epochs = [row for row in read_metrics(finished.run) if row["kind"] == "epoch"]
    index = json.loads((run / "checkpoints/index.json").read_text())
    best = min(epochs, key=lambda row: row["val_loss"])
    assert index["best_loss"] == f"step-{best['step']:08d}"
    assert index["last"] == "step-00000003"
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert list(run.glob("tensorboard/*tfevents*"))


def test_what_the_family_wants_watched_is_written_down(finished: Finished) -> None:
    rows = [row for row in read_metrics(finished.run) if "watched" in row]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("step", 1),
        ("epoch", 1),
        ("epoch", 2),
        ("epoch", 3),
    ]
    layers = ["output_rms/00", "output_rms/01"]
    assert [list(row["watched"]) for row in rows] == [layers] * 4
    assert all(
        row["watched"][layer] > 0 for row in rows for layer in layers
    )  # they were zero before the first step


def test_samples_have_their_own_scores(finished: Finished) -> None:
    epochs = [row for row in read_metrics(finished.run) if row["kind"] == "epoch"]
    assert [row["sample_scores"].keys() for row in epochs] == [row["samples"].keys() for row in epochs]


def test_a_finished_run_is_left_alone(finished: Finished, caplog: pytest.LogCaptureFixture) -> None:
    before = sorted(
        (path, path.stat().st_mtime_ns) for path in Path(finished.run).rglob("*") if path.is_file()
    )
    assert resume(finished.run) == finished.run
    assert "nothing is left to do" in caplog.text
    after = sorted(
        (path, path.stat().st_mtime_ns) for path in Path(finished.run).rglob("*") if path.is_file()
    )
    assert before == after


def documents(finished: Finished, **train: Any) -> dict[str, Any]:
    document = finished.config.model_dump(mode="json")
    return {**document, "train": {**document["train"], **train}}


def test_resources_the_cluster_lacks_are_refused_at_once(finished: Finished, tmp_path: Path) -> None:
    from raycap.config import ConfigError

    run = tmp_path / "run"
    config = TrainConfig.model_validate(documents(finished, run=str(run), num_workers=64))
    with pytest.raises(ConfigError, match=r"train.num_workers=64 .* need 64 CPUs and the cluster has 4"):
        train(config)
    assert not run.exists()  # so that the next try is not told to resume
