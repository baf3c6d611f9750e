"""The metrics as `evaluate.Metric` objects that work offline: `load("cider_d").compute(predictions=, references=)`.

`evaluate` is imported on first use, for it takes seconds. Knows nothing of how scores are computed.
"""

from __future__ import annotations

import functools
from typing import Any

from raycap.metrics.checks import PREDICTIONS, REFERENCES, check_listed
from raycap.metrics.corpus import NAMES, prepare
from raycap.metrics.measure import METEOR, load_meteor
from raycap.metrics.ptb import tokenize

_GROUPS = {"bleu": ("bleu_1", "bleu_2", "bleu_3", "bleu_4"), "captions": NAMES}
_CITATIONS = {
    "bleu": "Papineni et al. 2002, BLEU: a method for automatic evaluation of machine translation",
    "rouge_l": "Lin 2004, ROUGE: a package for automatic evaluation of summaries",
    "cider_d": "Vedantam et al. 2015, CIDEr: consensus-based image description evaluation",
    "meteor": "Denkowski and Lavie 2014, Meteor universal: language specific translation evaluation",
    "captions": "Chen et al. 2015, Microsoft COCO captions: data collection and evaluation server",
}


def load(name: str) -> Any:
    """An `evaluate.Metric` by name: one of the scores, `meteor`, `bleu` (all four) or `captions` (BLEU-1 to 4,
    ROUGE-L and CIDEr-D).

    Its `compute(predictions=[str], references=[[str]])` returns the scores by name; several go together with
    `evaluate.combine`. `compute` raises ValueError where `score` does.

    Raises:
        ValueError: unknown name, or METEOR's word lists are not there.
    """
    known = [*NAMES, METEOR, *_GROUPS]
    if name not in known:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(known)}")
    metric = _metric_class()(config_name=name, keep_in_memory=True)
    if name == METEOR:
        # here, so that what is missing is said before anything is scored
        metric.meteor = load_meteor("python")
    return metric


@functools.cache
def _metric_class() -> Any:
    import datasets
    import evaluate

    class CaptionMetric(evaluate.Metric):  # type: ignore[misc]
        """One of raycap's caption metrics, named by its configuration."""

        def _info(self) -> Any:
            name = str(self.config_name)
            family = name.rstrip("_1234") if name.startswith("bleu") else name
            return evaluate.MetricInfo(
                description=f"{name} as COCO caption evaluation computes it, PTB tokenization included.",
                citation=_CITATIONS[family],
                inputs_description="predictions: one caption an image; references: each image's captions.",
                features=datasets.Features(
                    {
                        "predictions": datasets.Value("string"),
                        "references": datasets.Sequence(datasets.Value("string")),
                    }
                ),
            )

        def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
            """Keep a batch; ValueError where captions or references are no list, which `evaluate` would trip over."""
            check_listed(predictions, PREDICTIONS)
            check_listed(references, REFERENCES)
            super().add_batch(predictions=predictions, references=references, **more)

        def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
            name = str(self.config_name)
            prepared = prepare(predictions, references)
            if name == METEOR:
                statistics = self.meteor.statistics(tokenize(predictions), prepared.all_tokens())
                return {METEOR: float(statistics.score())}
            scores = prepared.statistics(predictions).scores()
            return {key: scores[key] for key in _GROUPS.get(name, (name,))}

    return CaptionMetric
