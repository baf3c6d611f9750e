"""Fast captioning with GPT-2 and cross-attention: weights laid out once, a static cache for each batch.

Cross-attention's keys and values are computed once an image and shared by its beams; self-attention's cache is
never re-ordered (see decoding.Ancestry). With one query, matmul - softmax - matmul beats fused attention on CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raycap.config import ConfigError
from raycap.decoding import Ancestry, DecodingConfig, Hypothesis, Search, check_beams, start_search
from raycap.models.gpt2_cross.decoder_weights import (
    Affine,
    BlockWeights,
    DecoderWeights,
    of_gpt2_cross,
    of_transformers,
)
from raycap.models.kernels import DTYPES, PRECISIONS, Head, Linear, Precision, linear

if TYPE_CHECKING:
    from raycap.models.gpt2_cross.model import Gpt2Cross

FUSED_GELU = {"gelu_new", "gelu_pytorch_tanh"}


class Decoder:
    """A copy of the model's weights in one precision, and captioning with it."""

    blocks: list[Block]
    embeddings: Tensor
    positions: Tensor
    head: Head

    @classmethod
    def from_model(cls, model: Gpt2Cross, **settings: Any) -> Decoder:
        """Of raycap's own model; `settings` as for Decoder, start and end token the tokenizer's by default."""
        tokens = {"start_id": model.tokenizer.start_id, "end_id": model.tokenizer.end_id}
        return cls(of_gpt2_cross(model), **{**tokens, **settings})

    @classmethod
    def from_transformers(cls, gpt2: Any, **settings: Any) -> Decoder:
        """Of transformers' GPT2LMHeadModel with `add_cross_attention`; `settings` as for Decoder."""
        return cls(of_transformers(gpt2), **settings)

    @torch.no_grad()
    def __init__(
        self,
        weights: DecoderWeights,
        *,
        start_id: int,
        end_id: int,
        precision: Precision = "float32",
        vocabulary: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        beside: Decoder | None = None,
    ) -> None:
        """Lay out the weights.

        Args:
            weights: read block by block.
            start_id: the token a caption starts from.
            end_id: the token that ends it.
            precision: of weights and matrix products. int8 runs on x86 CPUs.
            vocabulary: token ids that captions may use, start and end token added; all where None.
            device: where to decode; the weights' own device where None.
            beside: over the same language model, in the same precision on the same device; what both have of it
                is laid out once: embeddings, head, and MLPs without adapters.

        Raises:
            ConfigError: this machine lacks the precision, or the vocabulary has ids the model has not.
        """
        if precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        self.device = torch.device(device) if device is not None else weights.embeddings.device
        self.precision = precision
        self.heads, self.cross_heads, self.vision_dim = weights.heads, weights.cross_heads, weights.vision_dim
        self.vocabulary = _vocabulary(vocabulary, len(weights.head), {start_id, end_id})
        self.start_id, self.end_id = self._local(start_id), self._local(end_id)
        self.frozen_mlp = weights.frozen_mlp
        if beside is not None and beside.vocabulary == self.vocabulary:
            self.embeddings, self.positions, self.head = beside.embeddings, beside.positions, beside.head
        else:
            self._lay_out_vocabulary(weights)
        twins: Iterable[Block | None] = itertools.repeat(None)
        if beside is not None and self.frozen_mlp and beside.frozen_mlp:
            twins = beside.blocks
        self.blocks = [
            Block(block, precision=precision, device=self.device, activation=weights.activation, twin=twin)
            for block, twin in zip(weights.blocks, twins, strict=False)
        ]
        self.final_norm = weights.final_norm.to(self.device)
        self.feature_norm = weights.feature_norm.to(self.device) if weights.feature_norm else None

    def _lay_out_vocabulary(self, weights: DecoderWeights) -> None:
        embeddings, head = weights.embeddings, weights.head
        if self.vocabulary is not None:
            index = torch.tensor(self.vocabulary, device=head.device)
            embeddings, head = embeddings[index], head[index]
        self.embeddings = embeddings.to(self.device)
        self.positions = weights.positions.float().to(self.device)
        self.head = Head(head.float(), precision=self.precision, device=self.device)

    def caption(self, features: Tensor, decoding: DecodingConfig) -> list[list[Hypothesis]]:
        """For each image `decoding.n` hypotheses, best first, from features (batch, patches, vision_dim).

        Raises:
            ValueError: features of another width, or more tokens than the model has positions.
        """
        if not len(features):
            return []
        search = self.start(features, decoding)
        with torch.inference_mode():
            while not search.done:
                self.step([search])
        return [[self.full_vocabulary(hypothesis) for hypothesis in of_image] for of_image in search.found]

    def start(self, features: Tensor, decoding: DecodingConfig) -> Search:
        """Ready some images' captions to be grown by `step`; errors as `caption`."""
        if features.ndim != 3 or features.shape[2] != self.vision_dim:
            got = tuple(features.shape)
            raise ValueError(f"features must be (batch, patches, {self.vision_dim}), and are {got}")
        if decoding.max_tokens > len(self.positions):
            raise ValueError(f"max_tokens={decoding.max_tokens} is above the model's {len(self.positions)}")
        check_beams(decoding, vocab=len(self.embeddings))
        width = decoding.n if decoding.sample else decoding.beams
        with torch.inference_mode():
            stepper = CaptionStepper(self, features, width=width, max_tokens=decoding.max_tokens)
            return start_search(
                stepper, decoding, batch=len(features), start_id=self.start_id, end_id=self.end_id
            )

    def step(self, searches: Sequence[Search]) -> list[list[int]]:
        """Grow the captions of several searches, however far each is, by one token.

        Their rows go through the layers together; each attends for itself.

        Returns:
            For each search the images that are done now.
        """
        with torch.inference_mode():
            logits = step_together(
                self,
                [search.stepper for search in searches],
                tokens=[search.tokens for search in searches],
                parents=[search.parents for search in searches],
            )
            return [search.take(of_search) for search, of_search in zip(searches, logits, strict=True)]

    def full_vocabulary(self, hypothesis: Hypothesis) -> Hypothesis:
        """A hypothesis in the tokenizer's token ids, where the vocabulary is cut."""
        return Hypothesis(self.token_ids(hypothesis.token_ids), hypothesis.score)

    def token_ids(self, own: list[int]) -> list[int]:
        """The tokenizer's ids of the decoder's."""
        return own if self.vocabulary is None else [self.vocabulary[token] for token in own]

    def _local(self, token_id: int) -> int:
        return token_id if self.vocabulary is None else self.vocabulary.index(token_id)


class Block:
    """One block's layers."""

    def __init__(
        self,
        weights: BlockWeights,
        *,
        precision: Precision,
        device: torch.device,
        activation: str,
        twin: Block | None = None,
    ) -> None:
        def layer(affine: Affine, *, gelu: bool = False) -> Linear:
            return linear(affine.weight, affine.bias, precision=precision, device=device, gelu=gelu)

        self.norm, self.cross_norm, self.mlp_norm = (
            norm.to(device) for norm in (weights.norm, weights.cross_norm, weights.mlp_norm)
        )
        self.queries_keys_values = layer(weights.queries_keys_values)
        self.output = layer(weights.output)
        self.cross_queries = layer(weights.cross_queries)
        self.cross_keys_values = layer(weights.cross_keys_values)
        self.cross_output = layer(weights.cross_output)
        self.mlp_in: Linear = twin.mlp_in if twin else layer(weights.mlp_in, gelu=activation in FUSED_GELU)
        self.mlp_out: Linear = twin.mlp_out if twin else layer(weights.mlp_out)
        self.activation = None if activation in FUSED_GELU else _activation(activation)

    def mlp(self, x: Tensor) -> Tensor:
        inner = self.mlp_in(self.mlp_norm(x))
        return self.mlp_out(inner if self.activation is None else self.activation(inner))


class CaptionStepper:
    """The state of a batch of images while their captions grow."""

    def __init__(self, decoder: Decoder, features: Tensor, *, width: int, max_tokens: int) -> None:
        self.decoder = decoder
        self.device = decoder.device
        self.position = 0
        batch, patches, _ = features.shape
        self.dtype = _attention_dtype(decoder)
        rows = features.to(self.device, torch.float32).flatten(0, 1)  # (batch * patches, vision_dim)
        rows = rows if decoder.feature_norm is None else decoder.feature_norm(rows)
        self.cross = [self._image(block.cross_keys_values(rows), batch, patches) for block in decoder.blocks]
        slots = 1 + (max_tokens - 1) * width
        shape = (2, batch, decoder.heads, slots, decoder.positions.shape[1] // decoder.heads)
        self.past = [torch.empty(shape, dtype=self.dtype, device=self.device) for _ in decoder.blocks]
        self.ancestry = Ancestry(batch, slots=slots, dtype=self.dtype, device=self.device)

    def _image(self, joint: Tensor, batch: int, patches: int) -> tuple[Tensor, Tensor]:
        """Keys (batch, heads, head_dim, patches) and values (batch, heads, patches, head_dim) for all steps."""
        parts = joint.view(batch, patches, 2, self.decoder.cross_heads, -1).to(self.dtype)
        keys, values = parts[:, :, 0], parts[:, :, 1]
        return keys.permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous()

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        """See decoding.Stepper."""
        return step_together(self.decoder, [self], tokens=[tokens], parents=[parents])[0]

    def open_step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        """Take slots for new tokens (batch, beams); what goes into the first block, (batch * beams, model_dim)."""
        self.beams = tokens.shape[1]
        self.fresh = slice(self.ancestry.used, self.ancestry.used + self.beams)
        self.mask = self.ancestry.advance(self.beams, parents)  # (batch, beams, slots in use)
        self.position += 1
        decoder = self.decoder
        return decoder.embeddings[tokens.flatten()].float() + decoder.positions[self.position - 1]

    def attend_to_text(self, layer: int, joint: Tensor) -> Tensor:
        """Self-attention of queries, keys and values (batch * beams, 3 * model_dim)."""
        past = self.past[layer]
        parts = joint.view(-1, self.beams, 3, self.decoder.heads, past.shape[-1])
        past[:, :, :, self.fresh].copy_(parts[:, :, 1:].permute(2, 0, 3, 1, 4))
        keys, values = past[:, :, :, : self.ancestry.used]  # (batch, heads, slots in use, head_dim)
        return self._attend(parts[:, :, 0], keys.transpose(2, 3), values, self.mask)

    def attend_to_image(self, layer: int, queries: Tensor) -> Tensor:
        """Cross-attention of queries (batch * beams, cross_heads * head_dim)."""
        keys, values = self.cross[layer]
        parts = queries.view(len(keys), self.beams, self.decoder.cross_heads, -1)
        return self._attend(parts, keys, values, None)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of queries (batch, beams, heads, head_dim); the mask (batch, beams, slots) is added.

        Keys are (batch, heads, head_dim, slots), values (batch, heads, slots, head_dim).

        Returns:
            (batch * beams, heads * head_dim)
        """
        batch, beams, _, _ = queries.shape
        by_head = queries.transpose(1, 2).to(self.dtype).flatten(0, 1)  # (batch * heads, beams, head_dim)
        scores = torch.bmm(by_head, keys.flatten(0, 1))  # (batch * heads, beams, slots)
        if mask is not None:
            scores.view(batch, -1, *mask.shape[1:]).add_(mask[:, None])
        attended = torch.bmm(scores.softmax(-1), values.flatten(0, 1))  # (batch * heads, beams, head_dim)
        by_beam = attended.view(batch, -1, *attended.shape[1:]).transpose(1, 2)
        return by_beam.reshape(batch * beams, -1)

    def keep(self, images: Tensor) -> None:
        """See decoding.Stepper."""
        self.past = [past[:, images] for past in self.past]
        self.cross = [(keys[images], values[images]) for keys, values in self.cross]
        self.ancestry.keep(images)


def step_together(
    decoder: Decoder,
    steppers: Sequence[Any],
    *,
    tokens: Sequence[Tensor],
    parents: Sequence[Tensor | None],
) -> list[Tensor]:
    """One step of several steppers of one decoder: logits (batch, beams, vocab) of each.

    What reads weights runs once for all rows, because few rows cost nearly as much as many.
    """
    entering = [
        stepper.open_step(newest, of_beams)
        for stepper, newest, of_beams in zip(steppers, tokens, parents, strict=True)
    ]
    sizes = [len(rows) for rows in entering]
    x = _joined(entering)  # (rows of all, model_dim)
    for layer, block in enumerate(decoder.blocks):
        joint = torch.split(block.queries_keys_values(block.norm(x)), sizes)
        x += block.output(
            _joined([s.attend_to_text(layer, part) for s, part in zip(steppers, joint, strict=True)])
        )
        queries = torch.split(block.cross_queries(block.cross_norm(x)), sizes)
        x += block.cross_output(
            _joined([s.attend_to_image(layer, part) for s, part in zip(steppers, queries, strict=True)])
        )
        x += block.mlp(x)
    logits = torch.split(decoder.head(decoder.final_norm(x)), sizes)
    return [of_stepper.view(*newest.shape, -1) for of_stepper, newest in zip(logits, tokens, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _attention_dtype(decoder: Decoder) -> torch.dtype:
    """On CPU float32 always: bfloat16 saves nothing at these sizes and costs 20 us a product."""
    return torch.float32 if decoder.device.type == "cpu" else DTYPES[decoder.precision]


def _vocabulary(wanted: Sequence[int] | None, size: int, always: set[int]) -> list[int] | None:
    if wanted is None:
        return None
    ids = sorted({*wanted, *always})
    if ids[0] < 0 or ids[-1] >= size:
        raise ConfigError(
            f"vocabulary has token ids from {ids[0]} to {ids[-1]}; the model's are 0 to {size - 1}"
        )
    return ids


def _activation(name: str) -> Any:
    from transformers.activations import ACT2FN

    return ACT2FN[name]
