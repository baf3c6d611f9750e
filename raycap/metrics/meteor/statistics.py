"""What METEOR adds up for each image, and the score of one or of many (Denkowski and Lavie 2014, English, ranking).

Everything kept is a whole number, so sums do not depend on the order of images or on how they were cut into parts.
Knows nothing of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raycap.metrics.meteor.align import Match
from raycap.metrics.meteor.lexicon import Caption

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of exact, stem, synonym and paraphrase matches
# As the reference jar names this configuration.
VERSION = "meteor-1.5-wo-en-norm-0.85_0.2_0.6_0.75-ex_st_sy_pa-1.0_0.6_0.8_0.6"
COLUMNS = 2 + 2 + 16 + 1


@dataclass(frozen=True)
class MeteorStatistics:
    """Each image's counts, for the reference that scores it best; a last axis of 2 is (caption, reference)."""

    words: Ints  # (images, 2)
    function_words: Ints  # (images, 2)
    matched: Ints  # (images, 4 stages, 2 content or function word, 2)
    chunks: Ints  # (images,)

    @classmethod
    def of(cls, rows: npt.ArrayLike) -> MeteorStatistics:
        """Statistics from rows of numbers in the order of the reference jar's SCORE line."""
        table = np.array(rows, dtype=np.int64).reshape(-1, COLUMNS)
        return cls(table[:, :2], table[:, 2:4], table[:, 4:20].reshape(-1, 4, 2, 2), table[:, 20])

    @classmethod
    def concatenate(cls, parts: Sequence[MeteorStatistics]) -> MeteorStatistics:
        """Statistics of several parts of a corpus together, in the order given."""
        if not parts:
            return cls.of([])
        fields = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})

    def take(self, rows: Ints) -> MeteorStatistics:
        """Statistics of some images, with repetition."""
        return MeteorStatistics(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.chunks)

    def score(self) -> float:
        """Corpus METEOR: the score of the sums."""
        return float(self.resampled(np.ones((1, len(self))))[0])

    def resampled(self, counts: Floats) -> Floats:
        """Corpus METEOR of resamplings, (resamplings,).

        A caption that matches its reference whole, in one chunk, adds no chunk; the reference jar's EVAL does so.

        Args:
            counts: (resamplings, images) how often each image is in each.
        """
        chunks = np.where(self._whole(), 0, self.chunks)
        table = np.column_stack(
            [self.words, self.function_words, self.matched.reshape(len(self), 16), chunks]
        )
        sums = counts @ table.astype(np.float64)  # (resamplings, columns), whole numbers
        return MeteorStatistics.of(sums).each()

    def each(self) -> Floats:
        """METEOR of each image, (images,)."""
        content = DELTA * (self.words - self.function_words) + (1 - DELTA) * self.function_words
        matched = np.zeros((len(self), 2))
        # In the reference's order, to its last digit.
        for kind, share in enumerate((DELTA, 1 - DELTA)):
            for stage, weight in enumerate(WEIGHTS):
                matched += self.matched[:, stage, kind] * weight * share
        with np.errstate(divide="ignore", invalid="ignore"):
            precision, recall = (matched / content).T
            mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
            score = mean * (1 - self._penalty())
        return np.where(np.isnan(score), 0.0, np.maximum(score, 0.0))

    def _penalty(self) -> Floats:
        average = self.matched.sum(axis=(1, 2)).sum(axis=1) / 2.0
        fragmentation = np.where(self._whole(), 0.0, self.chunks / average)
        # One by one: numpy's power may differ in the last bit from place to place.
        return GAMMA * np.array([value**BETA for value in fragmentation.tolist()], dtype=np.float64)

    def _whole(self) -> npt.NDArray[np.bool_]:
        """Whether all words match, in one chunk."""
        all_match = (self.matched.sum(axis=(1, 2)) == self.words).all(axis=1)
        return np.asarray(all_match & (self.chunks == 1))


def count(caption: Caption, reference: Caption, matches: Sequence[Match], chunks: int) -> list[int]:
    """One row of statistics."""
    stages = [0] * 16
    for match in matches:
        at = 4 * match.stage
        function = (match.caption_bits() & caption.function_words).bit_count()
        reference_function = (match.bits() & reference.function_words).bit_count()
        stages[at] += match.caption_length - function
        stages[at + 1] += match.length - reference_function
        stages[at + 2] += function
        stages[at + 3] += reference_function
    return [
        len(caption.words),
        len(reference.words),
        caption.function_words.bit_count(),
        reference.function_words.bit_count(),
        *stages,
        chunks,
    ]
