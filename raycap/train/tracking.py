"""Weights & Biases, by one config value. wandb is imported only where it is asked for."""

from __future__ import annotations

import base64
import hashlib
import io
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from raycap import storage
from raycap.config import ConfigError
from raycap.train.config import TrackingConfig
from raycap.train.report import Sample

LOG_EVERY_STEPS = 10


def check_tracking(tracking: TrackingConfig, *, run: str) -> None:
    """Whether W&B can be used as asked.

    Raises:
        ConfigError: online without a key, or offline where there is no folder to write to.
    """
    if tracking.wandb == "offline" and not storage.is_local(run):
        raise ConfigError(
            f"tracking.wandb=offline writes into the run folder, and {run} is on no disk; use online or off"
        )
    if tracking.wandb == "online" and not _has_key():
        raise ConfigError(
            "tracking.wandb=online needs a key: set WANDB_API_KEY or run `wandb login`, or use offline"
        )


class Tracker:
    """One run in W&B. A resumed run goes on under the same id, which is made from the run folder's path."""

    def __init__(self, tracking: TrackingConfig, *, run: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        name = run.rstrip("/").rsplit("/", 1)[-1]
        self.run = wandb.init(
            project=tracking.project,
            name=tracking.name or name,
            group=tracking.group or None,
            id=hashlib.sha256(run.encode()).hexdigest()[:16],
            resume="allow",
            mode="offline" if tracking.wandb == "offline" else "online",
            dir=storage.filesystem(run)[1] if storage.is_local(run) else None,
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("*", step_metric="step")

    def step(self, row: Mapping[str, Any]) -> None:
        """Log one in ten optimizer steps."""
        if row["step"] % LOG_EVERY_STEPS == 0:
            self.run.log({_group("train", name): value for name, value in row.items()})

    def epoch(self, row: Mapping[str, Any], samples: Sequence[Sample], captions: Mapping[str, str]) -> None:
        """Log an epoch's metrics and the table of samples."""
        table = self.wandb.Table(columns=["image_id", "photo", "generated", "references"])
        for sample in samples:
            if sample.image_id in captions:
                photo = self.wandb.Image(_pixels(sample.photo))
                table.add_data(
                    sample.image_id, photo, captions[sample.image_id], "\n".join(sample.references)
                )
        self.run.log({**{_group("epoch", name): value for name, value in row.items()}, "samples": table})

    def close(self, checkpoint: str) -> None:
        """Log the checkpoint folder as an artifact and end the run."""
        if checkpoint:
            artifact = self.wandb.Artifact(f"checkpoint-{self.run.id}", type="model")
            if storage.is_local(checkpoint):
                artifact.add_dir(str(Path(storage.filesystem(checkpoint)[1])))
            else:
                artifact.add_reference(checkpoint)
            self.run.log_artifact(artifact)
        self.run.finish()


def _group(group: str, name: str) -> str:
    return name if name in {"step", "epoch"} else f"{group}/{name}"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    paths = [os.environ.get("NETRC", ""), str(Path.home() / ".netrc"), str(Path.home() / "_netrc")]
    return any(path and Path(path).is_file() and netrc.netrc(path).authenticators(host) for path in paths)


def _pixels(photo: str) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(photo.partition(",")[2])))
