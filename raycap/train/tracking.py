"""Where a run is tracked besides its own folder, as asked for in the tracking block.

A tracker is given flat rows of numbers and captions. Whatever it raises becomes one warning: a service that is down,
or a full disk of its own, costs the tracking and never the training.
"""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from raycap import storage
from raycap.config import ConfigError
from raycap.train.config import TrackingConfig
from raycap.train.report import SampleCaption
from raycap.train.tensorboard import TensorBoard
from raycap.train.wandb_run import WandbRun

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a run is tracked in. Rows are numbers by tag, `step` and `epoch` among them."""

    def step(self, row: Mapping[str, Any], /) -> None:
        """An optimizer step."""

    def epoch(self, row: Mapping[str, Any], captions: Sequence[SampleCaption], /) -> None:
        """The end of an epoch; `captions` are the sample photos' of all epochs so far, oldest first."""

    def saved(self) -> None:
        """The run folder's checkpoints have changed."""

    def close(self) -> None:
        """The run is complete."""


def check_tracking(tracking: TrackingConfig, *, run: str) -> None:
    """Whether the run can be tracked as asked.

    Raises:
        ConfigError: W&B online without a key; W&B offline, or TensorBoard, where there is no folder to write to.
    """
    if tracking.wandb == "offline" and not storage.is_local(run):
        raise ConfigError(
            f"tracking.wandb=offline writes into the run folder, and {run} is on no disk; use online or off"
        )
    if tracking.tensorboard and not storage.is_local(run):
        raise ConfigError(
            f"tracking.tensorboard writes into the run folder, and {run} is on no disk; leave it out"
        )
    if tracking.wandb == "online" and not _has_key():
        raise ConfigError(
            "tracking.wandb=online needs a key: set WANDB_API_KEY or run `wandb login`, or use offline"
        )


def open_trackers(
    tracking: TrackingConfig, *, run: str, config: Mapping[str, Any], step: int
) -> list[Guarded]:
    """The trackers that were asked for, of a run that stands at `step`."""
    trackers = []
    if tracking.wandb != "off":
        trackers.append(Guarded("W&B", partial(WandbRun, tracking, run=run, config=config)))
    if tracking.tensorboard:
        trackers.append(Guarded("TensorBoard", partial(TensorBoard, run=run, step=step)))
    return trackers


class Guarded:
    """A tracker that is left alone once it has failed, but for being closed."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self.name = name
        self.failed = False
        self.tracker: Tracker | None = None

        def begin() -> None:
            self.tracker = start()

        self._survive(begin)

    def step(self, row: Mapping[str, Any]) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.step(row))

    def epoch(self, row: Mapping[str, Any], captions: Sequence[SampleCaption]) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.epoch(row, captions))

    def saved(self) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.saved())

    def close(self) -> None:
        """See Tracker."""
        self._tell(lambda tracker: tracker.close(), even_if_failed=True)

    def _tell(self, what: Callable[[Tracker], None], *, even_if_failed: bool = False) -> None:
        tracker = self.tracker
        if tracker is not None and (even_if_failed or not self.failed):
            self._survive(lambda: what(tracker))

    def _survive(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # clients of services raise anything; none of it is worth the training
            if not self.failed:
                warn_of_failure(self.name, error)
            self.failed = True


def warn_of_failure(name: str, error: Exception) -> None:
    """One line about what is made beside the training, and can be done without."""
    reason = (str(error).splitlines() or ["no message"])[0]
    logger.warning(
        "%s has failed (%s: %s); training goes on without, and metrics.jsonl has everything",
        name,
        type(error).__name__,
        reason,
    )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    paths = [os.environ.get("NETRC", ""), str(Path.home() / ".netrc"), str(Path.home() / "_netrc")]
    return any(path and Path(path).is_file() and _names_host(path, host) for path in paths)


def _names_host(path: str, host: str) -> bool:
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError) as error:
        raise ConfigError(
            f"{path} cannot be read for W&B's key ({error}); mend it, or set WANDB_API_KEY"
        ) from None
