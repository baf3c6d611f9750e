"""The checkpoints of one run: which is the last, which are the best, and which the user means."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import yaml

from raycap import storage
from raycap.checkpoint import hub
from raycap.checkpoint.manifest import MANIFEST, WEIGHTS, CheckpointError, Manifest, read_manifest, verify
from raycap.checkpoint.writing import save
from raycap.config import Frozen
from raycap.models import CaptionModel

CHECKPOINTS = "checkpoints"
INDEX = "index.json"
CONFIG = "config.yaml"
DEFAULT_METRIC = "cider_d"
LOSS_KEY = "val_loss"  # the metric that decides which checkpoint is the best by loss
NAMED = {"best-metric": "best_metric", "best-loss": "best_loss", "last": "last"}

logger = logging.getLogger(__name__)


class Index(Frozen):
    """Which checkpoint of a run is which: folder names, "" where there is none."""

    metric: str
    last: str = ""
    best_loss: str = ""
    best_metric: str = ""


class RunCheckpoints:
    """The checkpoints of one run folder: RUN/checkpoints/step-00000120 and an index of the best and the last.

    The index is a copy for readers: it is made anew from the manifests on disk, so a crash between a
    checkpoint and its index loses nothing. One process writes (rank 0); any may read.
    """

    def __init__(self, run: str, *, metric: str = DEFAULT_METRIC) -> None:
        self.folder = storage.join(storage.absolute(run), CHECKPOINTS)
        self.metric = metric
        self._damaged: set[str] = set()

    def save_step(self, model: CaptionModel, *, step: int, **content: Any) -> str:
        """Save a checkpoint at its step (keywords as in `save`), renew the index, drop what is not kept.

        Dropped too are checkpoints of later steps, which a resume from this step's past has given up, and
        those that newest_valid found damaged.
        """
        name = f"step-{step:08d}"
        saved = save(storage.join(self.folder, name), model, step=step, **content)
        for other in storage.list_names(self.folder):
            half_written = other.startswith(".step-")
            given_up = other.startswith("step-") and (other > name or other in self._damaged - {name})
            if half_written or given_up:
                storage.remove(storage.join(self.folder, other))
        self._prune(self.refresh())
        return saved

    def newest_valid(self) -> str | None:
        """The newest checkpoint whose every file is whole; damaged ones are passed over with a warning."""
        for name in reversed(self._names()):
            folder = storage.join(self.folder, name)
            try:
                verify(folder)
            except CheckpointError as error:
                logger.warning("passing over a damaged checkpoint: %s", error)
                self._damaged.add(name)
                continue
            return folder
        return None

    def refresh(self) -> Index:
        """Make the index anew from the manifests on disk and write it."""
        index = self._scan(self.metric)
        storage.write_json(storage.join(self.folder, INDEX), index.model_dump(mode="json"))
        return index

    def read_index(self) -> Index:
        """The index as written; made from the manifests where it is absent, damaged or out of date."""
        try:
            index = Index.model_validate(storage.read_json(storage.join(self.folder, INDEX)))
        except (FileNotFoundError, ValueError):
            return self._scan(self.metric)
        names = {index.last, index.best_loss, index.best_metric} - {""}
        return index if names <= set(self._names()) else self._scan(index.metric)

    def _names(self) -> list[str]:
        return [name for name in storage.list_names(self.folder) if name.startswith("step-")]

    def _manifests(self) -> dict[str, Manifest]:
        manifests = {}
        for name in self._names():
            try:
                manifests[name] = read_manifest(storage.join(self.folder, name))
            except CheckpointError as error:
                logger.warning("leaving a damaged checkpoint out of the index: %s", error)
        return manifests

    def _scan(self, metric: str) -> Index:
        manifests = self._manifests()
        losses = _finite(manifests, LOSS_KEY)
        metrics = _finite(manifests, metric)
        return Index(
            metric=metric,
            last=max(manifests, default=""),
            best_loss=min(losses, key=losses.__getitem__, default=""),
            best_metric=max(metrics, key=metrics.__getitem__, default=""),
        )

    def _prune(self, index: Index) -> None:
        names = self._names()
        keep = {index.best_loss, index.best_metric, *names[-2:]}
        for name in names:
            if name not in keep:
                storage.remove(storage.join(self.folder, name))


def _finite(manifests: Mapping[str, Manifest], key: str) -> dict[str, float]:
    found = {name: manifest.metrics[key] for name, manifest in manifests.items() if key in manifest.metrics}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _metric_of(run: str) -> str:
    """The metric by which a run chose its best checkpoint, where its config says so."""
    try:
        return str(yaml.safe_load(storage.read_bytes(storage.join(run, CONFIG)))["train"]["metric"])
    except (FileNotFoundError, yaml.YAMLError, LookupError, TypeError):
        return DEFAULT_METRIC


def resolve(path: str) -> str:
    """The checkpoint folder that a path means.

    A checkpoint folder is itself. RUN/best-metric, RUN/best-loss and RUN/last are looked up; RUN alone is its
    best by metric, else by loss, else its last. hf://owner/name is a local copy of that hub repository.

    Raises:
        CheckpointError: nothing there that holds a checkpoint.
    """
    if hub.is_hub(path):
        path = hub.download(path)
    path = storage.absolute(path).rstrip("/")
    if any(storage.exists(storage.join(path, name)) for name in (MANIFEST, WEIGHTS)):
        return path
    run, _, name = path.rpartition("/")
    wanted = list(NAMED.values())
    if name in NAMED:
        wanted = [NAMED[name]]
    else:
        run = run if name == CHECKPOINTS else path
    index = RunCheckpoints(run, metric=_metric_of(run)).read_index().model_dump()
    for key in wanted:
        if index[key]:
            return storage.join(run, CHECKPOINTS, index[key])
    raise CheckpointError(
        f"no checkpoint at {path}: give a run folder, RUN/best-metric, RUN/best-loss, RUN/last, "
        f"or a folder with a {MANIFEST}"
    )
