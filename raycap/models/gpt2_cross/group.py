"""A search's hypotheses as captions: text of token ids, whole or as far as it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raycap.decoding import Hypothesis, Search
from raycap.models.base import CaptionGroup
from raycap.schema import Caption
from raycap.text import CaptionTokenizer

if TYPE_CHECKING:
    from raycap.models.gpt2_cross.decoder import Decoder


class SearchGroup(CaptionGroup):
    """Images whose captions one search grows."""

    def __init__(self, decoder: Decoder, search: Search, tokenizer: CaptionTokenizer) -> None:
        self.decoder, self.search, self.tokenizer = decoder, search, tokenizer
        self.finished: list[int] = []

    @property
    def open_images(self) -> int:
        return sum(self.search.waiting)

    def take_done(self) -> list[tuple[int, list[Caption]]]:
        finished, self.finished = self.finished, []
        return [(image, self._captions(self.search.found[image])) for image in finished]

    def drop(self, image: int) -> None:
        self.search.drop(image)

    def draft(self, image: int) -> str:
        return self.tokenizer.decode(self.decoder.token_ids(self.search.certain(image)))

    def _captions(self, found: list[Hypothesis]) -> list[Caption]:
        return as_captions([self.decoder.full_vocabulary(one) for one in found], self.tokenizer)


def as_captions(hypotheses: Sequence[Hypothesis], tokenizer: CaptionTokenizer) -> list[Caption]:
    """Captions of hypotheses in the tokenizer's token ids."""
    return [
        Caption(tokenizer.decode(found.token_ids), found.score, len(found.token_ids)) for found in hypotheses
    ]
