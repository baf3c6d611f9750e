"""Where an encoder's patches lie on its input, and its input on the photo. Knows nothing of models' outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raycap.vision import Preprocessor


@dataclass(frozen=True)
class PatchGrid:
    """The last rows * columns patches cover the picture, row by row; the first (CLS, registers) do not."""

    leading: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Window:
    """What an encoder sees of a photo, in shares of its width and height."""

    left: float
    top: float
    width: float
    height: float

    @property
    def share(self) -> float:
        """Of the photo's area."""
        return self.width * self.height


def patch_grid(patches: int, *, size: tuple[int, int], patch_size: object = 0) -> PatchGrid | None:
    """The grid of an encoder with so many patches on an input of (height, width); None where none fits.

    Args:
        patches: with CLS and register tokens.
        size: of the encoder's input, pixels.
        patch_size: as the model's config has it, where it does; a hierarchical model's is of its first layer, and
            is passed over because it gives too many patches.
    """
    height, width = size
    if isinstance(patch_size, int) and patch_size:
        rows, columns = height // patch_size, width // patch_size
        if 0 < rows * columns <= patches:
            return PatchGrid(patches - rows * columns, rows, columns)
    for leading in range(6):  # none, CLS, CLS with four registers (DINOv2, DINOv3)
        rows = max(1, round(math.sqrt((patches - leading) * height / width))) if patches > leading else 0
        if rows and (patches - leading) % rows == 0:
            columns = (patches - leading) // rows
            if abs(columns / rows - width / height) < 0.05 * width / height:
                return PatchGrid(leading, rows, columns)
    return None


def visible_window(preprocess: Preprocessor, *, height: int, width: int) -> Window:
    """The part of a photo that is left after the encoder's resize and centre crop."""
    if not any(preprocess.crop):
        return Window(0, 0, 1, 1)
    resized_height, resized_width = height, width
    if preprocess.short_side:
        scale = preprocess.short_side / min(height, width)
        resized_height, resized_width = round(height * scale), round(width * scale)
    elif any(preprocess.size):
        resized_height, resized_width = preprocess.size
    tall, wide = (min(1.0, preprocess.crop[0] / resized_height), min(1.0, preprocess.crop[1] / resized_width))
    return Window((1 - wide) / 2, (1 - tall) / 2, wide, tall)
