"""A run in Weights & Biases: curves, one table of samples over all epochs, checkpoints as artifacts.

wandb is imported only where it is asked for. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from raycap import storage
from raycap.checkpoint import RunCheckpoints, read_manifest, strategy_of
from raycap.train.config import TrackingConfig
from raycap.train.report import SampleCaption

COLUMNS = ("epoch", "image_id", "photo", "generated", "score", "references")
DATA_DIR = "WANDB_DATA_DIR"
ID = "wandb.json"  # in the run folder
TABLE_GROWTH = 1.05
FINISH_TIMEOUT_S = 600.0  # by default wandb waits for a lost network for as long as it takes
ALIASES: Mapping[str, str] = {"best_metric": "best-metric", "best_loss": "best-loss", "last": "last"}

logger = logging.getLogger(__name__)


class WandbRun:
    """One run in W&B. A resumed run goes on under the same id, which the run folder keeps.

    Not made from the folder's path: a new run at the path of one that was deleted, or another machine's at the same
    path, would go on with the old curves.
    """

    def __init__(self, tracking: TrackingConfig, *, run: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        self.folder = run
        self.checkpoints = tracking.checkpoints
        self.names: dict[str, str] = {}  # the checkpoint that each alias was last given to
        self.staged_here = False
        self.captions: Sequence[SampleCaption] = ()
        self.num_shown = 0  # of them, in the newest table
        self.run = self._start(tracking, config)
        self.run.define_metric("*", step_metric="step")

    def step(self, row: Mapping[str, Any]) -> None:
        """Log a step's numbers."""
        self.run.log(dict(row))

    def epoch(self, row: Mapping[str, Any], captions: Sequence[SampleCaption]) -> None:
        """Log an epoch's numbers, and the table of all epochs' captions anew.

        Whole each time, from metrics.jsonl: W&B's own growing tables (log_mode="INCREMENTAL") go on after a resume
        only online, and keep the epochs that a resume has taken back. From the 20th epoch on only where it has grown
        by a twentieth, so that what all tables take grows with the epochs and not with their square.
        """
        self.captions = captions
        due = len(captions) >= self.num_shown * TABLE_GROWTH
        self.run.log({**row, **(self._table() if due else {})})

    def _table(self) -> dict[str, Any]:
        captions = self.captions
        table = self.wandb.Table(columns=list(COLUMNS))
        samples = {c.sample.image_id: c.sample for c in captions}
        photos = {name: self.wandb.Image(s.pixels(), file_type="jpg") for name, s in samples.items()}
        for c in captions:
            references = "\n".join(c.sample.references)
            table.add_data(c.epoch, c.sample.image_id, photos[c.sample.image_id], c.text, c.score, references)
        self.num_shown = len(captions)
        return {"samples": table}

    def saved(self) -> None:
        """Log the checkpoints, where every epoch's are wanted."""
        if self.checkpoints == "epoch":
            self._log_checkpoints()

    def close(self) -> None:
        """Log the whole table and the checkpoints, and end the run.

        Raises:
            TimeoutError: W&B could not be reached for long; the message says how to send the rest.
        """
        folder = self.run.settings.sync_dir
        try:
            if len(self.captions) > self.num_shown:
                self.run.log(self._table())
            if self.checkpoints != "never":
                self._log_checkpoints()
        finally:
            try:
                self.run.finish()
            except TimeoutError:
                raise TimeoutError(f"not all was sent in time: do it with `wandb sync {folder}`") from None
            finally:
                if self.staged_here:
                    os.environ.pop(DATA_DIR, None)

    def _start(self, tracking: TrackingConfig, config: Mapping[str, Any]) -> Any:
        local = storage.is_local(self.folder)
        name = self.folder.rstrip("/").rsplit("/", 1)[-1]
        options: dict[str, Any] = {
            "mode": tracking.wandb,
            "project": tracking.project,
            "name": tracking.name or name,
            "group": tracking.group or None,
            "id": self._id(),
            "resume": "allow",
            "dir": storage.filesystem(self.folder)[1] if local else None,
            "config": dict(config),
            "settings": self.wandb.Settings(
                silent=True, console="off", finish_timeout=FINISH_TIMEOUT_S, finish_timeout_raises=True
            ),
        }
        if tracking.wandb == "offline":
            self._stage_here()
        try:
            return self.wandb.init(**options)
        except self.wandb.Error as error:
            if tracking.wandb == "offline" or not local:
                raise
            self.wandb.teardown()  # otherwise the id counts as in use
            self._stage_here()
            run = self.wandb.init(**{**options, "mode": "offline"})
            logger.warning(
                "W&B cannot be reached (%s); what it should have is kept: send it later with `wandb sync %s`",
                str(error).splitlines()[0],
                run.settings.sync_dir,
            )
            return run

    def _id(self) -> str:
        path = storage.join(self.folder, ID)
        if not storage.exists(path):
            storage.write_json(path, {"id": uuid.uuid4().hex[:16]})
        return str(storage.read_json(path)["id"])

    def _stage_here(self) -> None:
        """What an artifact is made of waits below RUN/wandb as well; wandb would leave it in the home folder."""
        if DATA_DIR not in os.environ:
            os.environ[DATA_DIR] = str(Path(storage.filesystem(self.folder)[1]) / "wandb")
            self.staged_here = True

    def _log_checkpoints(self) -> None:
        """The kept checkpoints under their names; W&B stores what it has already only once.

        Oldest first: W&B calls whatever is logged last `latest`.
        """
        checkpoints = RunCheckpoints(self.folder, metric=strategy_of(self.folder))
        index = checkpoints.read_index().model_dump()
        named: dict[str, list[str]] = {}
        for key, alias in ALIASES.items():
            if index[key]:
                named.setdefault(index[key], [index[key]]).append(alias)
        for name in sorted(named):
            if any(self.names.get(alias) != name for alias in named[name]):
                self.run.log_artifact(self._artifact(name), aliases=named[name])
                self.names |= dict.fromkeys(named[name], name)

    def _artifact(self, name: str) -> Any:
        folder = storage.join(RunCheckpoints(self.folder).folder, name)
        manifest = read_manifest(folder).model_dump(mode="json")
        fields = ("family", "epoch", "step", "metrics", "digest", "commit", "versions")
        artifact = self.wandb.Artifact(
            f"checkpoint-{self.run.id}",
            type="model",
            metadata={**{field: manifest[field] for field in fields}, "path": folder},
        )
        if storage.is_local(folder):
            # a copy waits to be sent only where the run may remove the checkpoint before that
            policy: Literal["mutable", "immutable"] = (
                "mutable" if self.checkpoints == "epoch" else "immutable"
            )
            artifact.add_dir(storage.filesystem(folder)[1], policy=policy, skip_cache=True)
        else:
            artifact.add_reference(folder)
        return artifact
