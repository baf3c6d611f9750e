"""ROUGE-L as COCO computes it: beta 1.2, the best precision and the best recall over an image's references.

Knows nothing of tokenization.
"""

from __future__ import annotations

from collections.abc import Sequence

BETA = 1.2


def rouge_l(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of tokens; an empty caption counts as one empty token, as in the reference."""
    tokens = candidate or [""]
    positions: dict[str, int] = {}
    for index, token in enumerate(tokens):
        positions[token] = positions.get(token, 0) | 1 << index
    length = len(tokens)
    precision = recall = 0.0
    for reference in references:
        common = _common(positions, length, reference or [""])
        precision = max(precision, common / length)
        recall = max(recall, common / (len(reference) or 1))
    if precision == 0 or recall == 0:
        return 0.0
    return ((1 + BETA**2) * precision * recall) / (recall + BETA**2 * precision)


def _common(positions: dict[str, int], length: int, reference: Sequence[str]) -> int:
    """Length of the longest common subsequence, a bit a token (Hyyrö 2004)."""
    ones = (1 << length) - 1
    row = ones
    for token in reference:
        matches = positions.get(token)
        if matches:
            kept = row & matches
            row = (row + kept | row - kept) & ones
    return length - row.bit_count()
