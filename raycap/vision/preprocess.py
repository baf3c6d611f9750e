"""Resize and crop an image exactly as the encoder's own image processor does, several times faster.

The settings come from the Hugging Face processor, whose defaults differ by class; the result is compared with
that processor on probe pictures when it is loaded, so one that does anything else is refused.
Pixels stay uint8: rescaling and normalising are folded into the encoder's step.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from raycap.config import ConfigError

# By PIL's numbers. torch's antialiased filters follow Pillow's: same kernels, fixed-point uint8 arithmetic.
TORCH_MODES = {int(Image.Resampling.BILINEAR): "bilinear", int(Image.Resampling.BICUBIC): "bicubic"}
CONVNEXT_WARP_SIDE = 384  # ConvNext's processor warps to a square from this size up, and crops below it

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Preprocessor:
    """RGB uint8 (height, width, 3) -> uint8 (3, height, width) at the encoder's size.

    `scale` and `shift` then normalise: pixel * scale + shift.
    """

    short_side: int  # resize the shorter side to this; 0: resize to `size`; both 0: no resize
    size: tuple[int, int]  # (height, width)
    crop: tuple[int, int]  # centre crop (height, width); (0, 0): none
    resample: int  # PIL's number
    scale: tuple[float, float, float]
    shift: tuple[float, float, float]

    @classmethod
    def load(cls, folder: Path) -> Preprocessor:
        """The preprocessing that a model folder names.

        Raises:
            ConfigError: none there, or one that does more than resize, crop and normalise.
        """
        processor = _load_processor(folder)
        own = cls(**_geometry(processor), **_normalisation(processor))
        _check_against(own, processor, folder)
        return own

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of every result."""
        return self.crop if any(self.crop) else self.size

    @property
    def fingerprint(self) -> str:
        """Changes whenever the pixels that the encoder sees would."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def __call__(self, image: Pixels) -> Pixels:
        """An RGB uint8 image (height, width, 3) as the encoder takes it: uint8 (3, height, width)."""
        resized = self._resize(image)
        return np.ascontiguousarray(_centre_crop(resized, self.crop).transpose(2, 0, 1))

    def _resize(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        target = self.size
        if self.short_side:
            # The longer side is cut down to a whole number, not rounded (transformers, image_transforms.py).
            longer = int(self.short_side * max(height, width) / min(height, width))
            target = (longer, self.short_side) if width <= height else (self.short_side, longer)
        if target in ((0, 0), (height, width)):
            return image
        # Enlarging shows the rounding of torch's 16-bit weights, and small images cost Pillow little.
        if self.resample not in TORCH_MODES or target[0] > height or target[1] > width:
            return np.asarray(
                Image.fromarray(image).resize((target[1], target[0]), Image.Resampling(self.resample))
            )
        if not image.flags.writeable:  # torch warns of read-only memory, such as a block of Ray's store
            image = image.copy()
        planes = torch.from_numpy(image).permute(2, 0, 1)[
            None
        ]  # (1, 3, height, width), channels last in memory
        mode = TORCH_MODES[self.resample]
        if height - target[0] > max(0, 2 * (width - target[1])):
            # Pillow 13 resizes tall images vertically first (its pull request 9549, bound measured):
            # as both passes round and clip to uint8, the order shows.
            planes = F.interpolate(planes, size=(target[0], width), mode=mode, antialias=True)
        resized = F.interpolate(planes, size=target, mode=mode, antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


def _centre_crop(image: Pixels, crop: tuple[int, int]) -> Pixels:
    """The middle of (height, width, 3), padded with black where the image is smaller."""
    if not any(crop):
        return image
    height, width = image.shape[:2]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    if top >= 0 and left >= 0:
        return image[top : top + crop[0], left : left + crop[1]]
    padded = np.zeros((max(height, crop[0]), max(width, crop[1]), 3), dtype=np.uint8)
    down, right = -(-(padded.shape[0] - height) // 2), -(-(padded.shape[1] - width) // 2)
    padded[down : down + height, right : right + width] = image
    return padded[top + down :][: crop[0], left + right :][:, : crop[1]]


def _load_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ConfigError(
            f"{folder} has no preprocessor_config.json, so its image size and colours are unknown"
        )
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ConfigError(f"the image processor in {folder} cannot be read: {reason}") from None


def _geometry(processor: Any) -> dict[str, Any]:
    """Resize and crop of a processor; ConvNext's crop_pct means resizing to a larger side, then cropping."""
    short_side, size, crop = 0, (0, 0), (0, 0)
    wanted = processor.size if getattr(processor, "do_resize", False) else None
    if wanted is not None and wanted.shortest_edge:
        short_side = int(wanted.shortest_edge)
        share = getattr(processor, "crop_pct", None)
        if share is not None and short_side >= CONVNEXT_WARP_SIDE:
            short_side, size = 0, (short_side, short_side)
        elif share is not None:
            short_side, crop = int(short_side / share), (short_side, short_side)
    elif wanted is not None and wanted.height:
        size = (int(wanted.height), int(wanted.width))
    if getattr(processor, "do_center_crop", False):
        crop = (int(processor.crop_size.height), int(processor.crop_size.width))
    if not any(crop) and not any(size):
        raise ConfigError(
            f"{type(processor).__name__} gives images of differing sizes; raycap needs one fixed size"
        )
    return {"short_side": short_side, "size": size, "crop": crop, "resample": int(processor.resample)}


def _normalisation(processor: Any) -> dict[str, Any]:
    """(pixel * rescale - mean) / std as pixel * scale + shift, for each colour."""
    factor = float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if getattr(processor, "do_normalize", False):
        mean, std = [float(v) for v in processor.image_mean], [float(v) for v in processor.image_std]
    return {
        "scale": tuple(factor / s for s in std),
        "shift": tuple(-m / s for m, s in zip(mean, std, strict=True)),
    }


def _check_against(own: Preprocessor, processor: Any, folder: Path) -> None:
    """Refuse a processor whose result is not ours on two probe pictures.

    Equal means a mean difference below a tenth of a grey level, none above two: torch's 16-bit weights move
    0.4 % of a photo's values by one level from Pillow's (22 bits), and one in ten million by two.
    """
    steps = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)
    for picture, size in ((steps[0], (431, 323)), (steps[1], (290, 517))):
        image = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"], dtype=np.float64)
        pixels = own(image)
        scale, shift = (np.array(v)[:, None, None] for v in (own.scale, own.shift))
        same_shape = theirs.shape == (1, *pixels.shape)
        difference = np.abs((theirs[0] - shift) / scale - pixels) if same_shape else np.full(1, np.inf)
        if difference.max() > 2.01 or difference.mean() > 0.1:
            raise ConfigError(
                f"{folder} uses {type(processor).__name__}, which does more than resize, crop and normalise; "
                "take a model whose preprocessing is of that kind (CLIP, SigLIP, DINOv2, ViT, ConvNext)"
            )
