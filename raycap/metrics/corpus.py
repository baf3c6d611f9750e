"""BLEU, ROUGE-L and CIDEr-D of captions against references that are tokenized and counted once.

`PreparedReferences` serves repeated scoring: validation each epoch, rewards, workers that score a part each.
What a worker returns (`Statistics`) holds only per-image numbers, reduced without rounding by order.
Knows nothing of files or of Ray.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raycap.metrics import ptb
from raycap.metrics.checks import (
    PREDICTIONS,
    REFERENCES,
    check_images,
    check_listed,
    check_number,
    check_predictions,
    check_references,
)
from raycap.metrics.joins import Join, Postings, ranges
from raycap.metrics.ngrams import ORDERS, DocumentFrequency, Entries, Ints, NgramTable, Words
from raycap.metrics.rouge import rouge_l

Floats = npt.NDArray[np.float64]
NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")
SIGMA = 6.0  # CIDEr-D's length penalty
_TINY, _SMALL = 1e-15, 1e-9  # the reference's guards against zero


@dataclass(frozen=True)
class Statistics:
    """What each image adds to the corpus scores."""

    correct: Ints  # (images, 4) clipped n-gram matches
    guessed: Ints  # (images, 4) n-grams of the candidate
    length: Ints  # (images,) words of the candidate
    reference_length: Ints  # (images,) words of the reference nearest in length
    rouge_l: Floats  # (images,)
    cider_d: Floats  # (images,)

    @classmethod
    def concatenate(cls, parts: Sequence[Statistics]) -> Statistics:
        """Statistics of several parts of a corpus together, in the order given."""
        fields = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})

    def __len__(self) -> int:
        return len(self.length)

    def resampled(self, counts: Floats) -> dict[str, Floats]:
        """Corpus scores of resamplings given as counts (resamplings, images); see `raycap.metrics.bootstrap`."""
        lengths = [counts @ length.astype(np.float64) for length in (self.length, self.reference_length)]
        # whole numbers, so these sums are exact
        grams = [counts @ count.astype(np.float64) for count in (self.correct, self.guessed)]
        means = [counts @ values / counts.sum(axis=1) for values in (self.rouge_l, self.cider_d)]
        return dict(zip(NAMES, [*_bleu(*grams, *lengths).T, *means], strict=True))

    def scores(self) -> dict[str, float]:
        """Corpus scores. Sums are exact (integers, math.fsum), so the order of images does not matter."""
        if not len(self.length):
            return dict.fromkeys(NAMES, 0.0)
        bleu = _bleu(
            self.correct.sum(axis=0)[None],
            self.guessed.sum(axis=0)[None],
            self.length.sum(),
            self.reference_length.sum(),
        )[0]
        means = [math.fsum(values) / len(values) for values in (self.rouge_l, self.cider_d)]
        return dict(zip(NAMES, [*bleu.tolist(), *means], strict=True))

    def each(self) -> dict[str, Floats]:
        """Scores of each image by itself."""
        bleu = _bleu(self.correct, self.guessed, self.length, self.reference_length)
        return dict(zip(NAMES, [*bleu.T, self.rouge_l, self.cider_d], strict=True))


def _bleu(
    correct: Ints | Floats,
    guessed: Ints | Floats,
    length: Ints | Floats,
    reference_length: Ints | Floats,
) -> Floats:
    """BLEU-1..4, (rows, 4), with the reference's smoothing constants and brevity penalty."""
    precision = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=1)
    bleu = precision ** (1.0 / np.array(ORDERS))  # (rows, 4)
    ratio = np.atleast_1d((length + _TINY) / (reference_length + _SMALL))
    with np.errstate(under="ignore"):
        penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return np.asarray(bleu * penalty[:, None])


class PreparedReferences:
    """References tokenized and counted once.

    Args:
        references: each image's captions.
        ids: names of the images for messages; their index by default.
        document_frequency: for CIDEr-D; counted in these references by default.
        following: see `raycap.metrics.ptb.tokenize`; for a part of a larger list of references.

    Raises:
        ValueError: an image without references, or a reference that is not a string.
    """

    def __init__(
        self,
        references: Sequence[Sequence[str]],
        *,
        ids: Sequence[object] | None = None,
        document_frequency: DocumentFrequency | None = None,
        following: Sequence[str] | None = None,
    ) -> None:
        self.ids = check_references(references, ids)
        self.num_images = len(references)
        captions = [caption for image in references for caption in image]
        self.tokens = ptb.tokenize(captions, following=following)
        sizes = np.array([len(image) for image in references], dtype=np.int64)
        # (images + 1,) first caption of each
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.image_of = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
        words = Words.of(self.tokens)
        source = own_source(self.num_images)
        self._table, numbers = NgramTable.of(words)
        self.own_document_frequency = DocumentFrequency.of(
            words, self.image_of, numbered=(self._table, numbers), num_images=self.num_images, source=source
        )
        self.document_frequency = document_frequency or self.own_document_frequency
        self.lengths = words.lengths
        self._count(words, numbers)

    def __len__(self) -> int:
        return self.num_images

    def weighed_by(self, document_frequency: DocumentFrequency) -> PreparedReferences:
        """The same references with other document frequencies, nothing tokenized again."""
        other = copy.copy(self)
        other.document_frequency = document_frequency
        words = Words.of(self.tokens)
        other._count(words, self._table.find(words))
        return other

    def tokens_of(self, image: int) -> list[list[str]]:
        """Tokens of an image's references."""
        return self.tokens[int(self._first[image]) : int(self._first[image + 1])]

    def all_tokens(self) -> list[list[list[str]]]:
        """Tokens of each image's references."""
        return [self.tokens_of(image) for image in range(self.num_images)]

    def _count(self, words: Words, numbers: list[Ints]) -> None:
        weighed = self._weighed(words, numbers)
        num_captions = len(words.lengths)
        self.norms = np.zeros((num_captions, 4))
        self.joins: list[Join] = []
        for order, number, df_number in zip(ORDERS, numbers, weighed, strict=True):
            entries = Entries.of(words, order, number, number, df_number)
            vector = entries.count * self.document_frequency.weights(order, entries.df_number)
            squares = np.bincount(entries.owner, weights=vector**2, minlength=num_captions)
            self.norms[:, order - 1] = np.sqrt(squares)
            size = self._table.size(order)
            self.joins.append(Join.of(entries, vector, self.image_of, max(size, 1)))

    def numbers_of(self, words: Words) -> tuple[list[Ints], list[Ints]]:
        """Numbers of n-grams in the references' table and in the document frequencies'."""
        numbers = self._table.find(words)
        return numbers, self._weighed(words, numbers)

    def postings(self, order: int) -> Postings:
        """The references' n-grams of one order, sorted by n-gram."""
        return self.joins[order - 1].postings

    def _weighed(self, words: Words, numbers: list[Ints]) -> list[Ints]:
        """Numbers in the document frequencies' table, which may be the references' own."""
        table = self.document_frequency.table
        return numbers if table is self._table else table.find(words)

    def statistics(
        self,
        predictions: Sequence[str],
        *,
        images: Sequence[int] | None = None,
        following: Sequence[str] | None = None,
    ) -> Statistics:
        """Per-image numbers of predictions.

        Args:
            predictions: one caption for each image, or for each of `images`.
            images: index of the image of each prediction; several predictions may share one.
            following: see `raycap.metrics.ptb.tokenize`.

        Raises:
            ValueError: a prediction that is not a string, or another number of them than of images.
        """
        image = self._images(predictions, images)
        check_predictions(predictions, [self.ids[index] for index in image.tolist()])
        tokens = ptb.tokenize(predictions, following=following)
        return self.statistics_of_tokens(tokens, images=image)

    def statistics_of_tokens(
        self, tokens: list[list[str]], *, images: Sequence[int] | Ints | None = None
    ) -> Statistics:
        """`statistics` of predictions that are tokenized already."""
        image = self._images(tokens, images)
        matched = self._match(tokens, image)
        rouge = [
            rouge_l(caption, self.tokens_of(index))
            for caption, index in zip(tokens, image.tolist(), strict=True)
        ]
        return Statistics(
            correct=matched.correct,
            guessed=matched.guessed,
            length=matched.length,
            reference_length=self._nearest_length(matched.length, image),
            rouge_l=np.array(rouge, dtype=np.float64),
            cider_d=matched.cider_d,
        )

    def cider_d(self, predictions: Sequence[str], *, images: Sequence[int] | None = None) -> Floats:
        """CIDEr-D of each prediction: what a reward needs, without the other metrics' cost."""
        image = self._images(predictions, images)
        check_predictions(predictions, [self.ids[index] for index in image.tolist()])
        return self._match(ptb.tokenize(predictions), image).cider_d

    def _images(self, predictions: Sequence[object], images: Sequence[int] | Ints | None) -> Ints:
        check_listed(predictions, PREDICTIONS)
        wanted = np.arange(self.num_images) if images is None else check_images(images)
        check_number(predictions, len(wanted))
        unknown = wanted[(wanted < 0) | (wanted >= self.num_images)]
        if len(unknown):
            raise ValueError(
                f"no image {unknown[0]}: the references are of images 0 to {self.num_images - 1}"
            )
        return wanted.astype(np.int64)

    def _match(self, tokens: list[list[str]], image: Ints) -> _Matched:
        words = Words.of(tokens)
        _, local = NgramTable.of(words)
        numbers, weighed = self.numbers_of(words)
        size = len(image)
        pairs_first = np.concatenate([[0], np.cumsum(self._first[image + 1] - self._first[image])]).astype(
            np.int64
        )
        # every (prediction, reference) pair
        pair_caption = ranges(self._first[image], self._first[image + 1])
        pair_owner = np.repeat(np.arange(size), np.diff(pairs_first))
        similarity = np.zeros((len(pair_caption), 4))
        correct = np.zeros((size, 4), dtype=np.int64)
        bigrams = np.zeros(size, dtype=np.int64)
        for order in ORDERS:
            at = order - 1
            entries = Entries.of(words, order, local[at], numbers[at], weighed[at])
            vector = entries.count * self.document_frequency.weights(order, entries.df_number)
            norm = np.sqrt(np.bincount(entries.owner, weights=vector**2, minlength=size))
            if order == 2:
                bigrams = np.bincount(entries.owner, weights=entries.count, minlength=size).astype(np.int64)
            found = self.joins[at].find(image[entries.owner], entries.number)
            clipped = np.minimum(entries.count, found.most)
            correct[:, at] = np.bincount(entries.owner, weights=clipped, minlength=size).astype(np.int64)
            row = (
                pairs_first[entries.owner[found.entry]]
                + found.caption
                - self._first[image[entries.owner[found.entry]]]
            )
            product = np.minimum(vector[found.entry], found.vector) * found.vector
            dot = np.bincount(row, weights=product, minlength=len(pair_caption)).astype(np.float64)
            norms = norm[pair_owner] * self.norms[pair_caption, at]
            similarity[:, at] = np.divide(dot, norms, out=dot.copy(), where=norms != 0)
        difference = (bigrams[pair_owner] - self._bigrams(pair_caption)).astype(np.float64)
        similarity *= np.exp(-(difference**2) / (2 * SIGMA**2))[:, None]
        sums = np.stack(
            [np.bincount(pair_owner, weights=column, minlength=size) for column in similarity.T], axis=1
        )
        cider = sums.mean(axis=1) / np.maximum(np.diff(pairs_first), 1) * 10.0
        guessed = np.maximum(words.lengths[:, None] - np.arange(4), 0)
        return _Matched(correct, guessed, words.lengths, cider)

    def _bigrams(self, captions: Ints) -> Ints:
        return np.maximum(self.lengths[captions] - 1, 0)

    def _nearest_length(self, length: Ints, image: Ints) -> Ints:
        """Words of the reference nearest in length to each prediction, the shorter of two as near."""
        captions = ranges(self._first[image], self._first[image + 1])
        sizes = self._first[image + 1] - self._first[image]
        owner = np.repeat(np.arange(len(image)), sizes)
        words = self.lengths[captions]
        # One number sorts by distance, then by length.
        rank = np.abs(words - length[owner]) << 32 | words
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        nearest: Ints = np.minimum.reduceat(rank, starts) if len(image) else rank
        return nearest & ((1 << 32) - 1)


@dataclass(frozen=True)
class _Matched:
    correct: Ints
    guessed: Ints
    length: Ints
    cider_d: Floats


def own_source(num_images: int) -> str:
    """How document frequencies of the references themselves are named."""
    return f"the {num_images:,} evaluated images' references"


def score(
    predictions: Sequence[str], references: Sequence[Sequence[str]] | PreparedReferences
) -> dict[str, float]:
    """Corpus BLEU-1..4, ROUGE-L and CIDEr-D of one caption an image, as COCO evaluation computes them.

    Raises:
        ValueError: no images, an image without references, a caption that is not a string, unequal lengths.
    """
    return prepare(predictions, references).statistics(predictions).scores()


def score_each(
    predictions: Sequence[str], references: Sequence[Sequence[str]] | PreparedReferences
) -> dict[str, Floats]:
    """Scores of each image by itself, (images,) arrays by metric; see `score`."""
    return prepare(predictions, references).statistics(predictions).each()


def prepare(
    predictions: Sequence[str], references: Sequence[Sequence[str]] | PreparedReferences
) -> PreparedReferences:
    """The references to score these predictions against; see `score`."""
    check_listed(predictions, PREDICTIONS)
    if not isinstance(references, PreparedReferences):
        check_listed(references, REFERENCES)
    if not len(references):
        raise ValueError("there is nothing to score: no images")
    check_number(predictions, len(references))
    return references if isinstance(references, PreparedReferences) else PreparedReferences(references)
