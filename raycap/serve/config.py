"""What a deployment is told: which checkpoints, where they run, and the limits on a request.

Replicas, autoscaling and GPU fractions are Serve's and stay in serve_config.yaml.
"""

from __future__ import annotations

import os
from typing import Annotated, Self

from pydantic import Field, model_validator

from raycap import storage
from raycap.engine import EngineOptions

CHECKPOINT_VARIABLE = "RAYCAP_CHECKPOINT"
KEYS_VARIABLE = "RAYCAP_API_KEYS"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # of a model: part of a URL


class ServeConfig(EngineOptions):
    """The `args` of the application in serve_config.yaml."""

    checkpoint: str = "quickstart/run"
    """Run folder, RUN/best-metric, RUN/last, or a checkpoint folder; RAYCAP_CHECKPOINT comes before it."""
    model_name: str = Field(default="default", pattern=NAME)
    """The name of that model in answers and requests."""
    models: dict[Annotated[str, Field(pattern=NAME)], str] = Field(default_factory=dict)
    """Further checkpoints by name, trained over the same encoder; loaded when first asked for."""
    max_loaded_models: int = Field(default=4, ge=1)
    """Of those, how many a replica keeps; the least recently used one goes."""
    max_batch_size: int = Field(default=32, ge=1)
    """Most images that are captioned together."""
    max_groups: int = Field(default=4, ge=1)
    """Images that join together form a group; beyond this many groups one begins only if it is larger than they are."""
    reading_threads: int = Field(default=2, ge=1)
    """Threads of a replica that decode images, beside the one in which the models run."""
    timeout_s: float = Field(default=30, gt=0)
    """A request that takes longer is answered with 504, whatever its client says."""
    require_keys: bool = False
    """Do not start without API keys in RAYCAP_API_KEYS: for a service that others can reach."""
    tries: int = Field(default=3, ge=1)
    """How often a request is handed to a captioner, where captioners die under it."""
    max_body_bytes: int = Field(default=15_000_000, ge=1)
    """A longer request body is answered with 413 before it is read to its end."""
    max_held_bytes: int = Field(default=500_000_000, ge=1)
    """Of the bodies that an ingress holds at a time; a request beyond them is answered with 429."""
    max_images: int = Field(default=32, ge=1)
    """Most images in one request to /v1/captions."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """An image with more pixels is refused before it is decoded."""
    max_side: int = Field(default=16_384, ge=1)
    """So is one with a longer side, in pixels."""
    fetch_hosts: list[str] = Field(default_factory=list)
    """Hosts from which an image may be fetched when a request names a URL; with none, URLs are refused."""
    fetch_timeout_s: float = Field(default=5, gt=0)
    """For fetching one image, redirects included."""

    @model_validator(mode="after")
    def check_names(self) -> Self:
        """Every model has a name of its own."""
        if self.model_name in self.models:
            raise ValueError(
                f"models has {self.model_name!r}, which is the name of `checkpoint`; give it another, or set model_name"
            )
        return self

    def resolved_checkpoint(self) -> str:
        """The checkpoint path to use, absolute."""
        return storage.absolute(os.environ.get(CHECKPOINT_VARIABLE) or self.checkpoint)
