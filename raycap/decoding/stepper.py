"""What search and a family agree on: a step, and what a static key-value cache needs to serve beams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Hypothesis:
    """Token ids of a caption, without start and end token, and its score (see `decode`)."""

    token_ids: list[int]
    score: float


class Stepper(Protocol):
    """One next-token callable over the state of a batch of images."""

    device: torch.device

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        """Logits of the token after `tokens`.

        `tokens` (batch, beams) int64 are the newest tokens; at the first call beams is 1 (the start token)
        and `parents` is None. Later `parents` (batch, beams) int64 names for each beam the beam of the call
        before that it continues; None there means that every beam continues itself.

        Returns:
            (batch, beams, vocab) float32; the caller may overwrite it.
        """

    def keep(self, images: Tensor) -> None:
        """Drop from the state all but these images (int64 indices into the current batch, ascending)."""


class Ancestry:
    """Which slots of a static cache each beam may read, so that caches need no re-ordering.

    Slot 0 holds the start token, then every step adds one slot a beam. A beam reads its own past's slots.
    """

    def __init__(self, batch: int, *, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self.used = 0
        self._mask = torch.full((batch, 1, slots), -torch.inf, dtype=dtype, device=device)

    def advance(self, beams: int, parents: Tensor | None) -> Tensor | None:
        """Take `beams` new slots, of which each beam reads its own.

        Returns:
            (batch, beams, used) to add to attention scores: 0 or -inf; None while a beam reads every slot.
        """
        slots = self._mask.shape[2]
        if parents is not None:
            self._mask = self._mask.gather(1, parents[:, :, None].expand(-1, -1, slots))
        own = torch.eye(beams, dtype=torch.bool, device=self._mask.device)
        self._mask[:, :, self.used : self.used + beams].masked_fill_(own, 0.0)
        self.used += beams
        return self._mask[:, :, : self.used] if beams > 1 else None

    def keep(self, images: Tensor) -> None:
        """Drop all but these images."""
        self._mask = self._mask[images]
