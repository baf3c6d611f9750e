"""Caption metrics as COCO evaluation computes them, without Java, network or temporary files.

`score` and `score_each` take plain lists; `PreparedReferences` serves repeated scoring; `load` gives a metric as
an `evaluate.Metric`. Knows nothing of models, files or Ray.
"""

from __future__ import annotations

from raycap.metrics import bootstrap
from raycap.metrics.corpus import NAMES, PreparedReferences, Statistics, score, score_each
from raycap.metrics.faces import load
from raycap.metrics.ngrams import DocumentFrequency, merge_counts
from raycap.metrics.ptb import tokenize

__all__ = [
    "NAMES",
    "DocumentFrequency",
    "PreparedReferences",
    "Statistics",
    "bootstrap",
    "load",
    "merge_counts",
    "score",
    "score_each",
    "tokenize",
]
