"""Removing the checkpoints of a run that are neither its best nor its last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raycap import storage
from raycap.checkpoint import (
    CHECKPOINTS,
    LOSS_KEY,
    CheckpointError,
    Manifest,
    RunCheckpoints,
    choose_kept,
    strategy_of,
    verify_names,
)
from raycap.config import ConfigError


@dataclass(frozen=True)
class Pruning:
    """What goes and what stays, by folder name."""

    checkpoints: RunCheckpoints
    kept: dict[str, list[str]]
    """Why each stays."""
    doomed: dict[str, int]
    """Bytes of each that goes."""

    def carry_out(self) -> None:
        """Remove what the plan names (never what has come since), and renew the index."""
        self.checkpoints.remove(self.doomed)
        self.checkpoints.refresh()


def plan_pruning(run: str, *, keep: Sequence[str] = ()) -> Pruning:
    """What to remove from a run; nothing is touched yet.

    Args:
        run: folder or URI of a run that is not training.
        keep: what stays too: steps ("876"), or the best by a strategy.

    Raises:
        CheckpointError: no run, or something among its checkpoints that is not raycap's or is damaged.
        ConfigError: `keep` names a step that is not there, or no strategy.
    """
    checkpoints = RunCheckpoints(run, metric=(strategy := strategy_of(run)))
    manifests = recognise(checkpoints)
    kept: dict[str, list[str]] = {}
    # from the manifests and not the index, which a crash may have left behind them
    for name, why in (
        (choose_kept(manifests, strategy), f"best by {strategy}"),
        (choose_kept(manifests, LOSS_KEY), "best by loss"),
        (max(manifests), "last"),
        *(find_kept(manifests, wanted) for wanted in keep),
    ):
        if name:
            kept.setdefault(name, []).append(why)
    doomed = {name: manifest.size for name, manifest in manifests.items() if name not in kept}
    return Pruning(checkpoints, kept, doomed)


def find_kept(manifests: dict[str, Manifest], wanted: str) -> tuple[str, str]:
    """The checkpoint that `--keep` names, and why it stays."""
    if not wanted.isdigit():
        if not (best := choose_kept(manifests, wanted)):
            raise ConfigError(f"--keep {wanted}: no checkpoint of the run has the metrics that it compares")
        return best, f"best by {wanted}"
    for name, manifest in manifests.items():
        if manifest.step == int(wanted):
            return name, "asked for"
    steps = ", ".join(str(manifest.step) for manifest in manifests.values())
    raise ConfigError(f"--keep {wanted}: the run has no checkpoint of that step; steps: {steps}")


def recognise(checkpoints: RunCheckpoints) -> dict[str, Manifest]:
    """The run's manifests, once it is sure that everything beside them is raycap's own.

    Raises:
        CheckpointError: what is not.
    """
    folder = checkpoints.folder
    names = checkpoints.names()
    if not names:
        raise CheckpointError(
            f"no run at {checkpoints.run}: no checkpoint lies in a folder {CHECKPOINTS} there; give a run's folder"
        )
    strangers = [
        name for name in storage.list_names(folder) if name not in names and not checkpoints.owns(name)
    ]
    if strangers:
        raise CheckpointError(
            f"{storage.join(folder, strangers[0])} is not raycap's, so nothing is removed; move it elsewhere first"
        )
    try:
        return {name: verify_names(storage.join(folder, name)) for name in names}
    except CheckpointError as error:
        raise CheckpointError(f"{error}, so nothing is removed; look there first") from None
