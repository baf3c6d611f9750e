"""Validation, spread over the ranks: the loss of every validation image, and its generated caption scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from raycap import metrics
from raycap.checkpoint import LOSS_KEY
from raycap.decoding import DecodingConfig
from raycap.metrics.measure import ChosenMeteor, measure
from raycap.models import CaptionModel
from raycap.schema import CaptionBatch
from raycap.train.collective import gather, sum_over_ranks
from raycap.train.step import autocast


@dataclass(frozen=True)
class Validated:
    """What validation found."""

    metrics: dict[str, float]
    """val_loss and the caption metrics."""
    captions: Mapping[int, str] = field(default_factory=dict)
    """By image key."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """Each image's own score by the run's metric, by image key."""


@torch.no_grad()
def validate(
    model: CaptionModel, batches: Iterator[CaptionBatch], *, decoding: DecodingConfig, precision: str
) -> tuple[float, dict[int, str]]:
    """Mean loss per token over all ranks' images, and all their captions by image key, on every rank.

    The model is left in eval mode. Every rank must call it.
    """
    model.eval()
    sums = torch.zeros(2)
    captions: dict[int, str] = {}
    for batch in batches:
        with autocast(batch["features"].device, precision):
            output = model(batch)
        sums += torch.stack([output.loss_sum.float(), output.count.float()]).cpu()
        generated = model.caption(batch["features"], decoding)
        captions |= {
            key: found[0].text for key, found in zip(batch["image_key"].tolist(), generated, strict=True)
        }
    loss_sum, count = sum_over_ranks(sums)
    everyone = {key: text for part in gather(captions) for key, text in part.items()}
    return loss_sum / max(count, 1.0), everyone


def validation_decoding(decoding: DecodingConfig, *, beams: int) -> DecodingConfig:
    """The decoding block with one caption an image and these beams."""
    return DecodingConfig.model_validate({**decoding.model_dump(), "beams": beams, "n": 1})


def score_captions(
    loss: float,
    captions: Mapping[int, str],
    references: Mapping[int, Sequence[str]],
    *,
    metric: str,
    meteor: ChosenMeteor | None = None,
) -> Validated:
    """val_loss and the caption metrics, over the images that have both a caption and references.

    METEOR is among them where `meteor` is given (see `raycap.metrics.measure.load_meteor`). Each image's own score
    is by `metric`.
    """
    keys = sorted(captions.keys() & references.keys())
    if not keys:
        return Validated({LOSS_KEY: loss}, captions)
    prepared = metrics.PreparedReferences([list(references[key]) for key in keys])
    measured = measure([captions[key] for key in keys], prepared, meteor=meteor)
    scores = dict(zip(keys, measured.each()[metric].tolist(), strict=True))
    return Validated({LOSS_KEY: loss, **measured.scores()}, captions, scores)
