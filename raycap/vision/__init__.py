"""Images in, features out: decode bytes, resize and crop as the encoder was trained, run the frozen encoder.

Featurizing, evaluating and serving all go through these, so an image gives the same features everywhere.
Knows nothing of captions, of Ray, or of where rows are stored.
"""

from raycap.vision.decode import BadImageError, decode_image
from raycap.vision.encoder import EncoderConfig, VisionEncoder, choose_device, encoder_fingerprint
from raycap.vision.preprocess import Preprocessor

__all__ = [
    "BadImageError",
    "EncoderConfig",
    "Preprocessor",
    "VisionEncoder",
    "choose_device",
    "decode_image",
    "encoder_fingerprint",
]
