"""Image captioning on Ray, end to end. `raycap.load(checkpoint)` gives an engine that captions images.

`raycap.Client(url)` captions with one that is served elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycap.client import Client
    from raycap.engine import CaptionEngine

__all__ = ["Client", "load"]

__version__ = "0.1.0"


def load(checkpoint: str, **options: Any) -> CaptionEngine:
    """A captioner from a checkpoint or run folder; options as in `CaptionEngine.load`."""
    from raycap.engine import CaptionEngine  # torch and transformers load only when they are needed

    return CaptionEngine.load(checkpoint, **options)


def __getattr__(name: str) -> object:
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raycap.client import Client  # httpx loads only when it is needed

    return Client
