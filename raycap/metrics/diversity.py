"""What scores against references do not show: how long captions are, how varied, and how many are learned by heart.

Counted over PTB tokens, so "A dog." and "a dog" are one caption. Knows nothing of files.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from raycap.metrics import ptb


def diversity(
    captions: Sequence[str], *, tokens: Sequence[Sequence[str]], training: Collection[str] | None = None
) -> dict[str, Any]:
    """Length, vocabulary and repetition of captions.

    Args:
        captions: at least one.
        tokens: theirs.
        training: the training captions as `normalised` gives them; None where they are not known.

    Returns:
        words (mean per caption), vocabulary (distinct words), distinct_1 and distinct_2 (distinct words and
        pairs over all of them: Li et al. 2016), distinct_captions (share of captions that differ), most_repeated
        (caption, count, share), and unseen (share not among the training captions) where those are known.
    """
    if not captions:
        raise ValueError("there are no captions to describe")
    words = [word for caption in tokens for word in caption]
    pairs = [pair for caption in tokens for pair in itertools.pairwise(caption)]
    plain = [" ".join(caption) for caption in tokens]
    ((most, count),) = Counter(plain).most_common(1)
    size = len(captions)
    found: dict[str, Any] = {
        "words": len(words) / size,
        "vocabulary": len(set(words)),
        "distinct_1": _share(words),
        "distinct_2": _share(pairs),
        "distinct_captions": len(set(plain)) / size,
        "most_repeated": {"caption": captions[plain.index(most)], "count": count, "share": count / size},
    }
    if training is not None:
        found["unseen"] = sum(caption not in training for caption in plain) / size
    return found


def normalised(captions: Iterable[str]) -> set[str]:
    """Captions as they are compared: their tokens with single spaces."""
    return {" ".join(tokens) for tokens in ptb.tokenize(captions)}


def _share(items: Sequence[object]) -> float:
    return len(set(items)) / len(items) if items else 0.0
