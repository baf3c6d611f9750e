"""What a worker does that scores a part of a large split; a module of its own, for a worker need not load torch.

Parts are cut in order. A part's last caption is told the next part's first, for tokens can depend on the caption
below.
"""

from __future__ import annotations

from raycap.metrics import DocumentFrequency, PreparedReferences
from raycap.metrics.measure import Measured, MeteorMode, load_meteor, measure
from raycap.metrics.ptb import neighbours


def prepare_part(
    references: list[list[str]], ids: list[object], below: list[str]
) -> tuple[PreparedReferences, DocumentFrequency]:
    """References of a part, and their own document frequencies; `below` is the next part's first caption, if any."""
    captions = [caption for image in references for caption in image]
    prepared = PreparedReferences(references, ids=ids, following=_following(captions, below))
    return prepared, prepared.own_document_frequency


def measure_part(
    prepared: PreparedReferences, captions: list[str], below: list[str], meteor: tuple[MeteorMode, str]
) -> Measured:
    """Captions of a part; `below` is the next part's first one, if any."""
    following = _following(captions, below)
    return measure(captions, prepared, meteor=load_meteor(*meteor), following=following)


def _following(captions: list[str], below: list[str]) -> list[str]:
    """For each caption of a part the one below it."""
    return neighbours([*captions, *below])[: len(captions)]
