"""The checkpoints of one run: which is the last, which are the best, and which the user means."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml

from raycap import choosing, storage
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
    """The strategy by which best_metric is chosen; a metric's name is one (see raycap.choosing)."""
    last: str = ""
    best_loss: str = ""
    best_metric: str = ""


class RunCheckpoints:
    """The checkpoints of one run folder: RUN/checkpoints/step-00000120 and an index of the best and the last.

    The index is a copy for readers: it is made anew from the manifests on disk, so a crash between a
    checkpoint and its index loses nothing. One process writes (rank 0); any may read.
    `metric` is the strategy that chooses the best by metric: a metric's name, or as raycap.choosing has it.
    """

    def __init__(self, run: str, *, metric: str = DEFAULT_METRIC) -> None:
        self.run = storage.absolute(run)
        self.folder = storage.join(self.run, CHECKPOINTS)
        self.metric = metric
        self._damaged: set[str] = set()

    def save_step(self, model: CaptionModel, *, step: int, **content: Any) -> str:
        """Save a checkpoint at its step (keywords as in `save`), renew the index, drop what is not kept.

        Dropped too are checkpoints of later steps, which a resume from this step's past has given up, and
        those that newest_valid found damaged.
        """
        name = f"step-{step:08d}"
        history = self._history(before=name)
        saved = save(storage.join(self.folder, name), model, step=step, history=history, **content)
        for other in storage.list_names(self.folder):
            half_written = other.startswith(".step-")
            given_up = other.startswith("step-") and (other > name or other in self._damaged - {name})
            if half_written or given_up:
                storage.remove(storage.join(self.folder, other))
        index = self.refresh()
        self.remove_others({index.best_loss, index.best_metric, *self.names()[-2:]})
        return saved

    def newest_valid(self) -> str | None:
        """The newest checkpoint whose every file is whole; damaged ones are passed over with a warning."""
        for name in reversed(self.names()):
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
        """The index as written; made from the manifests where it is absent, damaged or out of date.

        Out of date is one that names what is gone, or does not know the newest (a crash between the two).
        """
        try:
            index = Index.model_validate(storage.read_json(storage.join(self.folder, INDEX)))
        except (FileNotFoundError, ValueError):
            return self._scan(self.metric)
        names = self.names()
        is_fresh = [index.last] == (names[-1:] or [""])
        is_fresh = is_fresh and {index.best_loss, index.best_metric} - {""} <= set(names)
        return index if is_fresh else self._scan(index.metric)

    def names(self) -> list[str]:
        """Folder names of the checkpoints, by step; damaged ones too."""
        return [name for name in storage.list_names(self.folder) if name.startswith("step-")]

    def owns(self, name: str) -> bool:
        """Whether a name beside the checkpoints is raycap's own: the index, or what a killed write has left."""
        return name == INDEX or name.startswith((".step-", f"{INDEX}."))

    def manifests(self) -> dict[str, Manifest]:
        """Manifests by folder name, by step; damaged ones are left out with a warning."""
        manifests = {}
        for name in self.names():
            try:
                manifests[name] = read_manifest(storage.join(self.folder, name))
            except CheckpointError as error:
                logger.warning("leaving a damaged checkpoint out of the index: %s", error)
        return manifests

    def _scan(self, metric: str) -> Index:
        manifests = self.manifests()
        return Index(
            metric=metric,
            last=max(manifests, default=""),
            best_loss=choose_kept(manifests, LOSS_KEY),
            best_metric=choose_kept(manifests, metric),
        )

    def remove_others(self, keep: Collection[str]) -> None:
        """Remove the checkpoints whose folder names are not in `keep`."""
        self.remove(name for name in self.names() if name not in keep)

    def remove(self, names: Iterable[str]) -> None:
        """Remove these checkpoints, by folder name."""
        for name in names:
            storage.remove(storage.join(self.folder, name))

    def _history(self, *, before: str) -> dict[str, dict[str, float]]:
        """Metrics of all checkpoints before one, those removed included."""
        return metrics_so_far({name: found for name, found in self.manifests().items() if name < before})


def metrics_so_far(manifests: Mapping[str, Manifest]) -> dict[str, dict[str, float]]:
    """Metrics by folder name, by step: of these checkpoints, and of those before them that were removed."""
    history = manifests[max(manifests)].history if manifests else {}
    metrics = {**history, **{name: manifest.metrics for name, manifest in manifests.items()}}
    return {name: metrics[name] for name in sorted(metrics) if metrics[name]}


def choose_kept(manifests: Mapping[str, Manifest], by: str) -> str:
    """The best by a strategy of those that are here, held against all that the run had; "" where none takes part.

    Removed checkpoints count, so that what a run removes on its way does not decide what it ends with.
    """
    try:
        ranking = choosing.choose(metrics_so_far(manifests), by).ranking
    except choosing.NoCandidateError:
        return ""
    return next((name for name in ranking if name in manifests), "")


def strategy_of(run: str) -> str:
    """The strategy by which a run chose its best checkpoint, where its config says so."""
    try:
        options = yaml.safe_load(storage.read_bytes(storage.join(run, CONFIG)))["train"]
        return str(options.get("choose") or options["metric"])
    except (FileNotFoundError, yaml.YAMLError, LookupError, TypeError, AttributeError):
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
    index = RunCheckpoints(run, metric=strategy_of(run)).read_index().model_dump()
    for key in wanted:
        if index[key]:
            return storage.join(run, CHECKPOINTS, index[key])
    raise CheckpointError(
        f"no checkpoint at {path}: give a run folder, RUN/best-metric, RUN/best-loss, RUN/last, "
        f"or a folder with a {MANIFEST}"
    )
