"""Beam search, greedy decoding and sampling for a batch of images, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from raycap.decoding.choice import draw, penalise, top_log_probabilities
from raycap.decoding.config import DecodingConfig
from raycap.decoding.stepper import Hypothesis, Stepper


def decode(
    stepper: Stepper, config: DecodingConfig, *, batch: int, start_id: int, end_id: int
) -> list[list[Hypothesis]]:
    """Per image `config.n` hypotheses, best first.

    A score is the sum of the tokens' log-probabilities, the end token's among them, over
    length ** length_penalty, where length counts the end token too. In beam search it is transformers'
    `sequences_scores`, which penalties change; in greedy decoding and sampling it is the model's own
    probability, without penalties or temperature.

    Beam search, greedy decoding and all penalties are those of transformers 5 `generate()` with
    `early_stopping=False` and the start token as prompt (transformers/generation/utils.py, `_beam_search`):
    of 2 x beams candidates a step, the ended ones among the first `beams` enter a pool of the best `beams`;
    an image is done when its pool is full and no open beam, at its present length, beats the pool's worst.

    Raises:
        ValueError: more beams than half the vocabulary.
    """
    search = start_search(stepper, config, batch=batch, start_id=start_id, end_id=end_id)
    with torch.inference_mode():
        while not search.done:
            search.take(stepper.step(search.tokens, search.parents))
    return search.found


def start_search(
    stepper: Stepper, config: DecodingConfig, *, batch: int, start_id: int, end_id: int
) -> Search:
    """The search that `decode` runs, before its first step, for callers that step it themselves."""
    kind = _Rows if config.sample or config.beams == 1 else _Beams
    return kind(stepper, config, batch=batch, start_id=start_id, end_id=end_id)


def check_beams(config: DecodingConfig, *, vocab: int) -> None:
    """Refuse, with a ValueError, more beams than half the vocabulary."""
    if not config.sample and config.beams > 1 and 2 * config.beams >= vocab:
        raise ValueError(
            f"beams={config.beams} needs a vocabulary of more than {2 * config.beams} tokens, not {vocab}"
        )


class Search:
    """Captions of a batch of images in progress: feed `tokens` and `parents` to a step, `take` its logits.

    What greedy decoding, sampling and beam search share: histories, and images leaving the batch when done.
    """

    def __init__(
        self, stepper: Stepper, config: DecodingConfig, *, batch: int, start_id: int, end_id: int
    ) -> None:
        self.stepper, self.config, self.end_id = stepper, config, end_id
        self.width = config.n if config.sample else config.beams
        self.position = 0
        self.found: list[list[Hypothesis]] = [[] for _ in range(batch)]
        """Hypotheses of every image, empty until it is done."""
        self.images = list(range(batch))  # place in `found` of every image still in the batch
        self.waiting = [True] * batch  # which of those are not done
        self.tokens = torch.full((batch, 1), start_id, device=stepper.device)
        """(images, beams) to feed next."""
        self.parents: Tensor | None = None
        """(images, beams): which beam of the step before each continues; None: its own."""
        self.history = self.tokens[:, :, None]  # (images, beams, tokens so far), the start token first

    @property
    def done(self) -> bool:
        """Whether all images are."""
        return not any(self.waiting)

    def take(self, logits: Tensor) -> list[int]:
        """Choose the next tokens from logits (images, beams, vocab), which are overwritten.

        Returns:
            The images that are done now: places in `found`.
        """
        still_open: list[bool] = self.advance(logits, self.position).tolist()
        self.position += 1
        out_of_tokens = self.position == self.config.max_tokens
        closing = [
            place
            for place, waiting in enumerate(self.waiting)
            if waiting and (out_of_tokens or not still_open[place])
        ]
        if not closing:
            return []
        places = torch.tensor(closing, device=logits.device)
        finished = [self.images[place] for place in closing]
        for image, hypotheses in zip(finished, self.collect(places), strict=True):
            self.found[image] = hypotheses
        self._let_go(closing)
        return finished

    def drop(self, image: int) -> None:
        """Give up an image (a place in `found`): it counts as done and finds nothing."""
        if image in self.images:
            self._let_go([self.images.index(image)])

    def certain(self, image: int) -> list[int]:
        """The tokens that every hypothesis an image can still end with begins with, without the start token."""
        place = self.images.index(image)
        rivals = [_until(tokens, self.end_id) for tokens in self.candidates(place)]
        shortest = min(rivals, key=len)
        agreed = (
            index for index, token in enumerate(shortest) if any(rival[index] != token for rival in rivals)
        )
        return shortest[: next(agreed, len(shortest))]

    def candidates(self, place: int) -> list[list[int]]:
        """What an image's captions may still become: the beginnings of all, ended ones in full."""
        tokens: list[list[int]] = self.history[place, :, 1:].tolist()
        return tokens

    def advance(self, logits: Tensor, position: int) -> Tensor:
        """Take the next tokens; which images go on, (images,) bool."""
        raise NotImplementedError

    def collect(self, places: Tensor) -> list[list[Hypothesis]]:
        """The hypotheses of the images at these places of the batch."""
        raise NotImplementedError

    def select(self, places: Tensor) -> None:
        """Keep the state of the images at these places only."""
        self.tokens, self.history = self.tokens[places], self.history[places]
        self.parents = None if self.parents is None else self.parents[places]

    def _let_go(self, closing: list[int]) -> None:
        """Done images leave once they are half of the batch: moving caches costs about one pass over them."""
        for place in closing:
            self.waiting[place] = False
        if self.done or 2 * sum(self.waiting) > len(self.images):
            return
        remaining = [place for place, waiting in enumerate(self.waiting) if waiting]
        self.images = [self.images[place] for place in remaining]
        self.waiting = [True] * len(remaining)
        places = torch.tensor(remaining, device=self.tokens.device)
        self.select(places)
        self.stepper.keep(places)


class _Beams(Search):
    """Beam search. The pool holds each image's best ended captions, best first."""

    def __init__(
        self, stepper: Stepper, config: DecodingConfig, *, batch: int, start_id: int, end_id: int
    ) -> None:
        super().__init__(stepper, config, batch=batch, start_id=start_id, end_id=end_id)
        device = stepper.device
        self.scores = torch.zeros((batch, 1), device=device)  # (images, beams), best first
        self.pool_scores = torch.full((batch, self.width), -torch.inf, device=device)
        self.pool = torch.full((batch, self.width, config.max_tokens + 1), end_id, device=device)
        self.improvable = torch.ones(batch, dtype=torch.bool, device=device)

    def advance(self, logits: Tensor, position: int) -> Tensor:
        totals, parents, tokens = self._candidates(logits, position)  # each (images, 2 * beams), best first
        ended = tokens == self.end_id
        if position == self.config.max_tokens - 1:
            ended = torch.ones_like(ended)
        divisor = (position + 1) ** self.config.length_penalty
        self._fill_pool(totals / divisor, parents, tokens, ended)
        totals, chosen = totals.masked_fill(ended, -torch.inf).topk(self.width)  # (images, beams)
        self.scores, self.parents = totals, parents.gather(1, chosen)
        self.tokens = tokens.gather(1, chosen)
        self.history = torch.cat([self._histories(self.parents), self.tokens[:, :, None]], dim=2)
        self.improvable &= totals[:, 0] / divisor > self.pool_scores[:, -1]
        return self.improvable

    def _candidates(self, logits: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best 2 x beams continuations of every image: total score, beam continued, token."""
        images, beams, vocab = logits.shape
        check_beams(self.config, vocab=vocab)
        rows, wanted = logits.reshape(images * beams, vocab), 2 * self.width
        banned = self.end_id if position < self.config.min_tokens else None
        if self.config.penalises:
            rows = penalise(rows.log_softmax(-1), self.history.flatten(0, 1), self.config)
            if banned is not None:
                rows[:, banned] = -torch.inf
            values, tokens = rows.topk(wanted)
        else:
            values, tokens = top_log_probabilities(rows, wanted, banned=banned)
        totals = self.scores[:, :, None] + values.view(images, beams, wanted)
        totals, places = totals.flatten(1).topk(wanted)  # (images, 2 * beams)
        return totals, places // wanted, tokens.view(images, -1).gather(1, places)

    def _histories(self, parents: Tensor) -> Tensor:
        index = parents[:, :, None].expand(-1, -1, self.history.shape[2])
        return self.history.gather(1, index)  # (images, parents, tokens so far)

    def _fill_pool(self, scores: Tensor, parents: Tensor, tokens: Tensor, ended: Tensor) -> None:
        """Let the ended among the first `beams` candidates compete with the pool."""
        beams = self.width
        entering = ended[:, :beams] & self.improvable[:, None]
        if not entering.any():
            return
        new = torch.full_like(self.pool, self.end_id)
        length = self.history.shape[2]
        new[:, :, :length] = self._histories(parents[:, :beams])
        new[:, :, length] = tokens[:, :beams]
        offered = scores[:, :beams].masked_fill(~entering, -torch.inf)
        merged = torch.cat([self.pool_scores, offered], dim=1)
        self.pool_scores, best = merged.topk(beams)
        index = best[:, :, None].expand(-1, -1, self.pool.shape[2])
        self.pool = torch.cat([self.pool, new], dim=1).gather(1, index)

    def candidates(self, place: int) -> list[list[int]]:
        """See Search.candidates; the pool's captions may win too."""
        ended = self.pool_scores[place] > -torch.inf
        pool: list[list[int]] = self.pool[place, ended, 1:].tolist()
        return [*super().candidates(place), *pool]

    def select(self, places: Tensor) -> None:
        super().select(places)
        self.scores, self.improvable = self.scores[places], self.improvable[places]
        self.pool, self.pool_scores = self.pool[places], self.pool_scores[places]

    def collect(self, places: Tensor) -> list[list[Hypothesis]]:
        count = self.config.n
        sequences, scores = self.pool[places, :count, 1:].tolist(), self.pool_scores[places, :count].tolist()
        return [
            _hypotheses(*of_image, end_id=self.end_id) for of_image in zip(sequences, scores, strict=True)
        ]


class _Rows(Search):
    """Greedy decoding and sampling: every row goes its own way."""

    def __init__(
        self, stepper: Stepper, config: DecodingConfig, *, batch: int, start_id: int, end_id: int
    ) -> None:
        super().__init__(stepper, config, batch=batch, start_id=start_id, end_id=end_id)
        shape = (batch, self.width)
        self.sums = torch.zeros(shape, device=stepper.device)
        self.lengths = torch.zeros(shape, dtype=torch.int64, device=stepper.device)
        self.open = torch.ones(shape, dtype=torch.bool, device=stepper.device)
        self.uniform = torch.empty(0)
        if config.sample:
            # One stream of numbers for every image, so that a caption does not depend on its neighbours;
            # drawn on the CPU, so that it does not depend on the device.
            generator = torch.Generator().manual_seed(config.seed)
            draws = torch.rand(config.n, config.max_tokens, generator=generator, dtype=torch.float64)
            self.uniform = draws.to(stepper.device, torch.float32)  # (n, max_tokens)

    def advance(self, logits: Tensor, position: int) -> Tensor:
        images, beams, vocab = logits.shape
        if beams < self.width:  # the first step has one row an image
            logits = logits.repeat(1, self.width, 1)
            self.history = self.history.expand(-1, self.width, -1)
            self.parents = torch.zeros((images, self.width), dtype=torch.int64, device=logits.device)
        else:
            self.parents = None
        rows = logits.reshape(images * self.width, vocab)
        banned = self.end_id if position < self.config.min_tokens else None
        tokens, log_probabilities = self._choose(rows, position, banned=banned)  # both (rows,)
        tokens, gained = tokens.view(images, -1), log_probabilities.view(images, -1)
        self.sums += gained.masked_fill(~self.open, 0.0)
        self.lengths += self.open
        self.tokens = tokens.masked_fill(~self.open, self.end_id)
        self.history = torch.cat([self.history, self.tokens[:, :, None]], dim=2)
        self.open &= self.tokens != self.end_id
        return self.open.any(dim=1)

    def _choose(self, rows: Tensor, position: int, *, banned: int | None) -> tuple[Tensor, Tensor]:
        """Next token of every row, and its log-probability without penalties or temperature."""
        if not self.config.sample and not self.config.penalises:
            values, tokens = top_log_probabilities(rows, 1, banned=banned)
            return tokens[:, 0], values[:, 0]
        log_probabilities = rows.log_softmax(-1)
        scores = penalise(rows, self.history.flatten(0, 1), self.config)
        if banned is not None:
            scores[:, banned] = -torch.inf
        if self.config.sample:
            uniform = self.uniform[:, position].repeat(len(rows) // self.width)  # (rows,)
            tokens = draw(scores, self.config, uniform)
        else:
            tokens = scores.argmax(-1)
        return tokens, log_probabilities.gather(1, tokens[:, None])[:, 0]

    def select(self, places: Tensor) -> None:
        super().select(places)
        self.sums, self.lengths, self.open = self.sums[places], self.lengths[places], self.open[places]

    def collect(self, places: Tensor) -> list[list[Hypothesis]]:
        scores = (self.sums / self.lengths.float() ** self.config.length_penalty)[places].tolist()
        sequences = self.history[places, :, 1:].tolist()
        return [
            sorted(_hypotheses(*of_image, end_id=self.end_id), key=lambda found: -found.score)
            for of_image in zip(sequences, scores, strict=True)
        ]


def _hypotheses(sequences: list[list[int]], scores: list[float], *, end_id: int) -> list[Hypothesis]:
    return [
        Hypothesis(_until(sequence, end_id), score) for sequence, score in zip(sequences, scores, strict=True)
    ]


def _until(token_ids: list[int], end_id: int) -> list[int]:
    return token_ids[: token_ids.index(end_id)] if end_id in token_ids else token_ids
