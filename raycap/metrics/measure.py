"""All metrics of one set of captions behind one object: corpus scores, scores of each image, resamplings.

BLEU, ROUGE-L and CIDEr-D always; METEOR, SPICE and what a model has measured (CLIPScore) where they are to be had,
and otherwise a sentence that says why not. Knows nothing of files, models or Ray.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from raycap.metrics import clip_score, ptb
from raycap.metrics import meteor as meteor_tool
from raycap.metrics import spice as spice_tool
from raycap.metrics.checks import check_predictions
from raycap.metrics.corpus import NAMES, PreparedReferences, Statistics
from raycap.metrics.meteor import MeteorStatistics

Floats = npt.NDArray[np.float64]
MeteorMode = Literal["auto", "python", "java", "off"]
METEOR, SPICE, CLIP_SCORE, REF_CLIP_SCORE = "meteor", "spice", "clip_score", "ref_clip_score"
ALL_NAMES = (*NAMES, METEOR, SPICE, CLIP_SCORE, REF_CLIP_SCORE)
VERSIONS = {
    **dict.fromkeys(NAMES[:4], "BLEU of the corpus, nearest reference length (pycocoevalcap 1.2)"),
    "rouge_l": "ROUGE-L, beta 1.2, mean over images (pycocoevalcap 1.2)",
    "cider_d": "CIDEr-D, sigma 6, mean over images (pycocoevalcap 1.2)",
    SPICE: spice_tool.VERSION,
    CLIP_SCORE: clip_score.VERSION,
    REF_CLIP_SCORE: f"Ref{clip_score.VERSION}",
}


@dataclass(frozen=True)
class Measured:
    """Per-image numbers of captions on every metric that was to be had."""

    statistics: Statistics
    tokens: list[list[str]]
    """Of the captions."""
    meteor: MeteorStatistics | None = None
    means: Mapping[str, Floats] = field(default_factory=dict)
    """Scores of each image by metric, where the corpus score is their mean."""
    omitted: Mapping[str, str] = field(default_factory=dict)
    """Why a metric is not here, by metric."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """What each metric is, by metric."""

    def __len__(self) -> int:
        return len(self.statistics)

    def scores(self) -> dict[str, float]:
        """Corpus scores."""
        found = self.statistics.scores()
        if self.meteor is not None:
            found[METEOR] = float(self.meteor.score())
        for name, values in self.means.items():
            found[name] = math.fsum(values.tolist()) / len(values) if len(values) else 0.0
        return _in_order(found)

    def each(self) -> dict[str, Floats]:
        """Scores of each image by itself, (images,) by metric."""
        found = self.statistics.each()
        if self.meteor is not None:
            found[METEOR] = np.asarray(self.meteor.each(), dtype=np.float64)
        return _in_order({**found, **self.means})

    def resampled(self, counts: Floats) -> dict[str, Floats]:
        """Corpus scores of resamplings; see `raycap.metrics.bootstrap`."""
        found = self.statistics.resampled(counts)
        if self.meteor is not None:
            found[METEOR] = self.meteor.resampled(counts)
        for name, values in self.means.items():
            found[name] = counts @ values / counts.sum(axis=1)
        return _in_order(found)

    @classmethod
    def concatenate(cls, parts: Sequence[Measured]) -> Measured:
        """Of several parts of a corpus together, in the order given: to the last bit what one piece gives."""
        # Where METEOR lacks in one part, it lacks in all.
        first = next((part for part in parts if part.meteor is None), parts[0])
        counted = [part.meteor for part in parts if part.meteor is not None]
        meteor = None if first.meteor is None else type(first.meteor).concatenate(counted)
        return replace(
            first,
            statistics=Statistics.concatenate([part.statistics for part in parts]),
            tokens=[tokens for part in parts for tokens in part.tokens],
            meteor=meteor,
            means={name: np.concatenate([part.means[name] for part in parts]) for name in first.means},
        )

    def with_means(self, means: Mapping[str, Floats], omitted: Mapping[str, str]) -> Measured:
        """With metrics that something else has measured, or the reasons why not."""
        return replace(
            self,
            means={**self.means, **means},
            omitted={**self.omitted, **omitted},
            versions={**self.versions, **{name: VERSIONS[name] for name in means}},
        )


def measure(
    captions: Sequence[str],
    prepared: PreparedReferences,
    *,
    meteor: ChosenMeteor | None = None,
    following: Sequence[str] | None = None,
) -> Measured:
    """Score one caption an image on all metrics that Python has.

    Args:
        captions: one for each image of `prepared`.
        prepared: the references.
        meteor: see `load_meteor`; None leaves METEOR out without a word.
        following: see `raycap.metrics.ptb.tokenize`; for a part of a larger list of captions.

    Raises:
        ValueError: a caption that is not a string, or another number of them than of images.
    """
    check_predictions(captions, prepared.ids)
    tokens = ptb.tokenize(captions, following=following)
    measured = Measured(
        prepared.statistics_of_tokens(tokens),
        tokens,
        versions={name: VERSIONS[name] for name in NAMES},
    )
    if meteor is None:
        return measured
    return with_meteor(measured, meteor, meteor.statistics(tokens, prepared.all_tokens()))


def with_spice(measured: Measured, references: Sequence[Sequence[Sequence[str]]]) -> Measured:
    """With the reference tool's SPICE, or the reason why there is none; `references` are tokens."""
    try:
        return measured.with_means({SPICE: spice_tool.spice(measured.tokens, references)}, {})
    except spice_tool.SpiceUnavailableError as error:
        return measured.with_means({}, {SPICE: str(error)})


def with_meteor(measured: Measured, meteor: ChosenMeteor, statistics: MeteorStatistics | None) -> Measured:
    """With METEOR's numbers, or the reason why there are none."""
    if statistics is None:
        omitted = {METEOR: meteor.reason} if meteor.reason else {}
        return replace(measured, omitted={**measured.omitted, **omitted})
    versions = {**measured.versions, METEOR: meteor.version}
    return replace(measured, meteor=statistics, versions=versions)


class MeteorTool(Protocol):
    """METEOR however it is computed."""

    def statistics(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], /
    ) -> MeteorStatistics:
        """Each image's counts, of PTB tokens."""


@dataclass(frozen=True)
class ChosenMeteor:
    """METEOR in the way asked for, or why it cannot be had."""

    tool: MeteorTool | None
    version: str = ""
    reason: str = ""

    def statistics(
        self, captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
    ) -> MeteorStatistics | None:
        """Each image's counts, or None where METEOR cannot be had."""
        return None if self.tool is None else self.tool.statistics(captions, references)


@functools.cache
def load_meteor(mode: MeteorMode = "auto", folder: str = "") -> ChosenMeteor:
    """METEOR: in Python, by the reference's Java, or (auto) in Python where its word lists are.

    Args:
        mode: as `--meteor` has it.
        folder: a METEOR 1.5 folder with the word lists and the jar; "" takes the installed pycocoevalcap's.

    Raises:
        ValueError: asked for python or java, or from a folder, and it cannot be had.
    """
    if mode == "off":
        return ChosenMeteor(None)
    chosen = meteor_tool.JavaMeteor if mode == "java" else meteor_tool.Meteor
    try:
        tool = chosen.load(folder)
    except meteor_tool.MeteorUnavailableError as error:
        if mode != "auto" or folder:
            raise
        return ChosenMeteor(None, reason=str(error))
    return ChosenMeteor(tool, version=chosen.VERSION)


def _in_order(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ALL_NAMES if name in found}
