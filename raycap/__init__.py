"""Image captioning on Ray, end to end. `raycap.load(checkpoint)` gives an engine that captions images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycap.engine import CaptionEngine

__version__ = "0.1.0"


def load(checkpoint: str, **options: Any) -> CaptionEngine:
    """A captioner from a checkpoint or run folder; options as in `CaptionEngine.load`."""
    from raycap.engine import CaptionEngine  # torch and transformers load only when they are needed

    return CaptionEngine.load(checkpoint, **options)
