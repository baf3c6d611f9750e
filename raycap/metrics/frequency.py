"""Document frequencies of given captions, and the plain form in which they are kept.

N-grams of a single image are left out of the plain form: CIDEr-D weighs what it does not know as one that occurs
once, so scores are the same and the file is a fifth. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raycap.metrics import ptb
from raycap.metrics.checks import check_references
from raycap.metrics.ngrams import DocumentFrequency, Words

KIND = "raycap document frequencies"


def count(
    references: Sequence[Sequence[str]], *, source: str, ids: Sequence[object] | None = None
) -> DocumentFrequency:
    """In how many images' captions each n-gram occurs.

    Raises:
        ValueError: no images, one without captions, or a caption that is not a string.
    """
    check_references(references, ids)
    if not len(references):
        raise ValueError(f"there are no captions to count in {source}")
    words = Words.of(ptb.tokenize([caption for image in references for caption in image]))
    sizes = [len(image) for image in references]
    image_of = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return DocumentFrequency.of(words, image_of, num_images=len(sizes), source=source)


def to_plain(frequency: DocumentFrequency) -> dict[str, Any]:
    """As JSON holds it."""
    return {
        "kind": KIND,
        "tokenizer": ptb.VERSION,
        "source": frequency.source,
        "num_images": frequency.num_images,
        "counts": {phrase: count for phrase, count in frequency.counts().items() if count > 1},
    }


def from_plain(content: object) -> DocumentFrequency:
    """From what `to_plain` gave.

    Raises:
        ValueError: something else, or counted with another tokenizer.
    """
    match content:
        case {
            "kind": str(kind),
            "tokenizer": str(tokenizer),
            "source": str(source),
            "num_images": int(num_images),
            "counts": dict(counts),
        } if kind == KIND:
            pass
        case _:
            raise ValueError("no document frequencies as `raycap document-frequency` writes them")
    if tokenizer != ptb.VERSION:
        raise ValueError(f"counted with the tokenizer {tokenizer!r}, and this is {ptb.VERSION!r}")
    wrong = next((phrase for phrase, found in counts.items() if not _is_count(found, num_images)), None)
    if wrong is not None or num_images < 1:
        raise ValueError(f"the count of {wrong!r} is not a number of its {num_images} images")
    return DocumentFrequency.from_counts(_checked(counts), num_images=num_images, source=source)


def _is_count(found: object, num_images: int) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 < found <= num_images


def _checked(counts: Mapping[Any, Any]) -> dict[str, int]:
    return {str(phrase): int(found) for phrase, found in counts.items()}
