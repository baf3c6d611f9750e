"""Images in, features out: decode bytes, resize and crop as the encoder was trained, run the frozen encoder.

Featurizing, evaluating and serving all go through these, so an image gives the same features everywhere.
Knows nothing of captions, of Ray, or of where rows are stored.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from raycap.vision.decode import decode_image, inspect_image
from raycap.vision.headers import BadImageError, ImageHeader

if TYPE_CHECKING:
    from raycap.vision.encoder import EncoderConfig, VisionEncoder, choose_device, encoder_fingerprint
    from raycap.vision.preprocess import Preprocessor

# Imported when first asked for: decoding alone, as in every task of `prepare`, does without torch.
LAZY = {
    "EncoderConfig": "encoder",
    "VisionEncoder": "encoder",
    "choose_device": "encoder",
    "encoder_fingerprint": "encoder",
    "Preprocessor": "preprocess",
}

__all__ = [
    "BadImageError",
    "EncoderConfig",
    "ImageHeader",
    "Preprocessor",
    "VisionEncoder",
    "choose_device",
    "decode_image",
    "encoder_fingerprint",
    "inspect_image",
]


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)
