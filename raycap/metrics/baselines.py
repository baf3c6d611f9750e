"""What a score has to beat: one caption for every image, and the caption of the most similar training image.

The constant caption is chosen by rules that never look at the images it is then scored on (see `constant_of` and
`constants_left_out`). Knows nothing of files or of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raycap.metrics.clip_score import unit
from raycap.metrics.corpus import SIGMA, PreparedReferences
from raycap.metrics.ngrams import ORDERS, DocumentFrequency, Entries, Ints, NgramTable, Words
from raycap.metrics.ptb import tokenize

Floats = npt.NDArray[np.float64]
NUM_CANDIDATES = 300  # at most
NUM_IMAGES = 2000  # at most, that candidates are judged on


def constant_of(training: Sequence[Sequence[str]], *, seed: int) -> str:
    """The one caption for all: of up to 300 training captions drawn with the seed, that of the best mean CIDEr-D over
    up to 2,000 training images drawn likewise, each candidate's own image left out.

    Raises:
        ValueError: no training captions.
    """
    if not training:
        raise ValueError("there are no training captions to choose a constant caption from")
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(training))[:NUM_IMAGES]
    images = [training[index] for index in chosen.tolist()]
    captions, scores = _candidates(PreparedReferences(images), images, random)
    return captions[int(np.nanmean(scores, axis=1).argmax())]


def constants_left_out(
    references: Sequence[Sequence[str]],
    *,
    seed: int,
    document_frequency: DocumentFrequency | None = None,
) -> list[str]:
    """The constant caption of each image where no training captions are known, chosen from the other images.

    Of up to 300 references drawn with the seed, an image gets that of the best mean CIDEr-D over the others of up to
    2,000 images drawn likewise, the candidate's own left out. That is nearly always one caption. A lone image gets "".
    """
    if len(references) < 2:
        return [""] * len(references)
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(references))[:NUM_IMAGES])
    images = [references[index] for index in chosen.tolist()]
    captions, scores = _candidates(
        PreparedReferences(images, document_frequency=document_frequency), images, random
    )
    known = ~np.isnan(scores)
    filled = np.where(known, scores, 0.0)
    totals, counts = filled.sum(axis=1), known.sum(axis=1)
    best = [captions[int((totals / np.maximum(counts, 1)).argmax())]] * len(references)
    # (candidates, images): mean over all images but the candidate's own and the column's
    means = (totals[:, None] - filled) / np.maximum(counts[:, None] - known, 1)
    means[~known] = -1.0
    for image, candidate in zip(chosen.tolist(), means.argmax(axis=0).tolist(), strict=True):
        best[image] = captions[candidate]
    return best


def num_drawn(captions: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many candidates, and images to judge them on, a constant caption of these images' captions is chosen from."""
    # The candidates are captions of the images drawn, which are more than candidates where not all are drawn.
    return min(NUM_CANDIDATES, sum(map(len, captions))), min(NUM_IMAGES, len(captions))


def nearest(queries: Floats, known: Floats, *, chunk: int = 256) -> Ints:
    """For each query the row of `known` of the highest cosine; both (rows, dim).

    Raises:
        ValueError: nothing known, or another dimension.
    """
    if not len(known) or known.shape[1] != queries.shape[1]:
        raise ValueError(f"features of shape {queries.shape} cannot be compared with {known.shape}")
    known = unit(known)
    found = [
        (unit(queries[begin : begin + chunk]) @ known.T).argmax(axis=1)
        for begin in range(0, len(queries), chunk)
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *found]).astype(np.int64)


def one_for_all(prepared: PreparedReferences, caption: str) -> Floats:
    """CIDEr-D of one caption on every image, (images,): what `cider_d` gives, a hundred times faster."""
    words = Words.of(tokenize([caption]))
    _, local = NgramTable.of(words)
    numbers, weighed = prepared.numbers_of(words)
    num_captions = len(prepared.lengths)
    similarity = np.zeros(num_captions)
    for order, here, number, df_number in zip(ORDERS, local, numbers, weighed, strict=True):
        entries = Entries.of(words, order, here, number, df_number)
        vector = entries.count * prepared.document_frequency.weights(order, entries.df_number)
        postings = prepared.postings(order)
        rows, entry = postings.find(entries.number)
        theirs = postings.vector[rows]
        product = np.minimum(vector[entry], theirs) * theirs
        dot = np.bincount(postings.caption[rows], weights=product, minlength=num_captions).astype(float)
        norms = np.sqrt((vector**2).sum()) * prepared.norms[:, order - 1]
        similarity += np.divide(dot, norms, out=dot, where=norms != 0)
    gap = np.maximum(len(words.words) - 1, 0) - np.maximum(prepared.lengths - 1, 0)
    similarity *= np.exp(-(gap.astype(np.float64) ** 2) / (2 * SIGMA**2))
    sums = np.bincount(prepared.image_of, weights=similarity, minlength=len(prepared))
    sizes = np.bincount(prepared.image_of, minlength=len(prepared))
    scores: Floats = sums / len(ORDERS) / np.maximum(sizes, 1) * 10.0
    return scores


def _candidates(
    prepared: PreparedReferences, references: Sequence[Sequence[str]], random: np.random.Generator
) -> tuple[list[str], Floats]:
    """Candidate captions, and their CIDEr-D on each image, nan on their own: (candidates, images)."""
    places = [(image, caption) for image, captions in enumerate(references) for caption in captions]
    drawn = [places[index] for index in random.permutation(len(places))[:NUM_CANDIDATES].tolist()]
    scores = np.stack([one_for_all(prepared, caption) for _, caption in drawn])
    scores[np.arange(len(drawn)), [image for image, _ in drawn]] = np.nan
    return [caption for _, caption in drawn], scores
