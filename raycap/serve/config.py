"""What a deployment is told: which checkpoint, where it runs, and the limits on a request.

Replicas, autoscaling and GPU fractions are Serve's and stay in serve_config.yaml.
"""

from __future__ import annotations

import os

from pydantic import Field

from raycap import storage
from raycap.engine import EngineOptions

CHECKPOINT_VARIABLE = "RAYCAP_CHECKPOINT"


class ServeConfig(EngineOptions):
    """The `args` of the application in serve_config.yaml."""

    checkpoint: str = "quickstart/run"
    """Run folder, RUN/best-metric, RUN/last, or a checkpoint folder; RAYCAP_CHECKPOINT comes before it."""
    max_batch_size: int = Field(default=8, ge=1)
    """Most images that go through the model together."""
    batch_wait_s: float = Field(default=0.01, ge=0)
    """How long an image waits for others to fill its batch."""
    timeout_s: float = Field(default=30, gt=0)
    """A request that takes longer is answered with 504."""
    max_body_bytes: int = Field(default=15_000_000, ge=1)
    """A longer request body is answered with 413 before it is read to its end."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """An image with more pixels is refused before it is decoded."""

    def resolved_checkpoint(self) -> str:
        """The checkpoint path to use, absolute."""
        return storage.absolute(os.environ.get(CHECKPOINT_VARIABLE) or self.checkpoint)
