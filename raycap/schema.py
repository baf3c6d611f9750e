"""Every type that crosses a boundary: rows on disk, batches, what a model returns, captions.

Shape words used everywhere: batch, patches, tokens, heads, vocab, vision_dim, model_dim.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NotRequired, TypedDict

import pyarrow as pa

if TYPE_CHECKING:  # a task that only reads rows, and `--help`, need not wait for torch
    from torch import Tensor

SPLITS = ("train", "val", "test")
IGNORE_INDEX = -100  # label of a position that has no loss (torch's cross_entropy default)


class ImageRow(TypedDict):
    """One image with all its captions, as `prepare` writes it."""

    image_id: str
    split: str
    image: bytes  # encoded JPEG or PNG, EXIF orientation applied, RGB
    captions: list[str]


class FeatureRow(TypedDict):
    """An ImageRow whose image is replaced by the frozen encoder's output."""

    image_id: str
    split: str
    features: object  # numpy float16 (patches, vision_dim)
    mirrored: NotRequired[object]  # of the mirror image, in training rows where featurize.mirror asks for it
    captions: list[str]


IMAGE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
    ]
)


class CaptionBatch(TypedDict):
    """A batch of images with all their captions, packed one row an image. Tensors only.

    A row holds its image's captions one after another. Caption c of a row is the positions where
    `caption_index == c`; there `position_ids` counts 0, 1, 2, ..., `input_ids` is
    `<start> w1 .. wn` and `labels` is `w1 .. wn <end>` (already shifted: the label at a position is the
    token to predict there). Padding has caption_index -1, input the end token, label IGNORE_INDEX, position 0.
    """

    features: Tensor  # (batch, patches, vision_dim) float16
    input_ids: Tensor  # (batch, tokens) int64
    labels: Tensor  # (batch, tokens) int64
    position_ids: Tensor  # (batch, tokens) int64
    caption_index: Tensor  # (batch, tokens) int64
    image_key: Tensor  # (batch,) int64, see image_key()


@dataclass(frozen=True)
class StepOutput:
    """What a model's forward returns: the loop divides the sum by the count over all ranks."""

    loss_sum: Tensor  # scalar, sum over `count` tokens (or pairs)
    count: Tensor  # scalar
    logs: dict[str, Tensor] = field(default_factory=dict)  # scalars to report, e.g. gates


@dataclass(frozen=True)
class Caption:
    """A caption and its score: the sum of token log-probabilities over length**length_penalty."""

    text: str
    score: float
    tokens: int = 0
    """How many the text has, where the family counts them."""


def image_key(image_id: str) -> int:
    """A stable signed 64-bit key of an image id, so that batches can name images with tensors only."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "big", signed=True)
