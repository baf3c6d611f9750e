"""Images as people have them in Python -> encoded bytes, for the engine and for the client. Decodes nothing."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from raycap.vision.headers import BadImageError

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, np.dtype[np.uint8]]"
# What Pillow writes as PNG without changing a pixel.
PNG_MODES = frozenset(["1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"])


def encode_image(image: ImageInput, *, compress_level: int = 0) -> bytes:
    """An image's file: as it is from a path or bytes; as PNG from a PIL image or an array.

    Args:
        image: an array is uint8 (height, width), (height, width, 3) or (height, width, 4).
        compress_level: of the PNG, 0 (fast) to 9 (small).

    Raises:
        BadImageError: none of these.
        OSError: a file that cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return Path(image).expanduser().read_bytes()
    if isinstance(image, np.ndarray):
        if (
            image.dtype != np.uint8
            or image.ndim not in (2, 3)
            or not image.size
            or image.shape[2:] not in ((), (3,), (4,))
        ):
            raise BadImageError(
                f"an array must be uint8 (height, width, 3), and this is {image.dtype} {image.shape}"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise BadImageError(
            f"an image is a path, bytes, a PIL image or an array, and this is {type(image).__name__}"
        )
    buffer = io.BytesIO()
    plain = image if image.mode in PNG_MODES else image.convert("RGB")
    plain.save(buffer, "PNG", compress_level=compress_level, exif=image.getexif())
    return buffer.getvalue()
