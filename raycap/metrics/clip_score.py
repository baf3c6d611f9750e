"""CLIPScore and RefCLIPScore of embeddings (Hessel et al. 2021, https://arxiv.org/abs/2104.08718).

As the authors define them: w = 2.5, cosines clipped at 0, captions embedded behind "A photo depicts ", and
RefCLIPScore the harmonic mean of CLIPScore with the cosine of the nearest reference. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
VERSION = "CLIPScore (Hessel et al. 2021, w = 2.5)"
WEIGHT = 2.5
PROMPT = "A photo depicts "


def clip_score(images: Floats, captions: Floats) -> Floats:
    """CLIPScore of each image's caption, (images,), from embeddings (images, dim)."""
    cosines = (unit(images.astype(np.float64)) * unit(captions.astype(np.float64))).sum(axis=1)
    scores: Floats = WEIGHT * np.clip(cosines, 0.0, None)
    return scores


def ref_clip_score(scores: Floats, captions: Floats, references: Sequence[Floats]) -> Floats:
    """RefCLIPScore of each image, (images,).

    Args:
        scores: CLIPScores.
        captions: embeddings (images, dim).
        references: of each image (captions, dim).
    """
    units = unit(captions.astype(np.float64))
    nearest = np.array(
        [
            max(float((unit(theirs.astype(np.float64)) @ ours).max()), 0.0)
            for theirs, ours in zip(references, units, strict=True)
        ],
        dtype=np.float64,
    )
    total = scores + nearest
    means: Floats = np.divide(2 * scores * nearest, total, out=np.zeros_like(total), where=total > 0)
    return means


def unit(rows: Floats) -> Floats:
    """Rows of length 1, (rows, dim), in their own precision; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Floats = rows / np.where(norms == 0, 1.0, norms)
    return units
