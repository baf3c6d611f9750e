"""What callers hand in, held against what can be scored: each wrong thing is one sentence that names the image.

Knows nothing of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
PREDICTIONS = "predictions must be a list of captions"
REFERENCES = "references must be a list with a list of captions for each image"


def check_images(images: Sequence[int] | Ints) -> Ints:
    """Indices of images; ValueError of other than whole numbers: 0.7 is no image, and True is seldom meant as 1."""
    wanted = np.asarray(images)
    whole = wanted.ndim == 1 and (wanted.dtype.kind in "iu" or not len(wanted))
    # NumPy makes a number of a boolean among numbers.
    if not whole or (not isinstance(images, np.ndarray) and any(isinstance(image, bool) for image in images)):
        raise ValueError(
            f"images must be a list of whole numbers, the index of each prediction's image, and are {images!r:.80}"
        )
    return wanted.astype(np.int64)


def check_listed(given: object, wanted: str) -> None:
    """Raise ValueError, "`wanted` and are ...", of what has no length or no order: neither list, tuple nor array."""
    if isinstance(given, str):
        raise ValueError(f"{wanted} and are one string")
    has_order = (
        hasattr(given, "__len__") and hasattr(given, "__getitem__") and getattr(given, "shape", None) != ()
    )
    if not has_order or isinstance(given, Mapping):
        raise ValueError(f"{wanted} and are of type {type(given).__name__}")


def check_references(
    references: Sequence[Sequence[str]], ids: Sequence[object] | None = None
) -> list[object]:
    """Names of the images, by default their index; ValueError, naming the image, of what cannot be scored against."""
    check_listed(references, REFERENCES)
    names = list[object](range(len(references)) if ids is None else ids)
    if len(names) != len(references):
        raise ValueError(
            f"{len(names)} image ids came with references of {len(references)} images; give one each"
        )
    for image, captions in zip(names, references, strict=True):
        check_listed(captions, f"references of image {image} must be a list of captions")
        if not len(captions):
            raise ValueError(
                f"image {image} has no reference caption; give at least one, or leave the image out"
            )
        for caption in captions:
            if not isinstance(caption, str):
                raise ValueError(
                    f"a reference of image {image} must be a string and is {type(caption).__name__}"
                )
    return names


def check_number(predictions: Sequence[object], num_images: int) -> None:
    """Raise ValueError of other than one prediction an image."""
    if len(predictions) != num_images:
        raise ValueError(f"{len(predictions)} predictions for {num_images} images; give one caption an image")


def check_predictions(predictions: Sequence[str], ids: Sequence[object]) -> None:
    """Raise ValueError of other than one prediction an image, or where one is not a string, naming the image."""
    check_listed(predictions, PREDICTIONS)
    check_number(predictions, len(ids))
    for image, caption in zip(ids, predictions, strict=True):
        if not isinstance(caption, str):
            raise ValueError(f"the caption of image {image} must be a string and is {type(caption).__name__}")
