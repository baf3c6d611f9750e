"""Checks of what was seen: the photo, its features, and how much of them reaches the caption. See checks.py."""

from __future__ import annotations

import math

import torch

from raycap.debug.study import Study
from raycap.pages import Verdict, verdict


def check_grey(study: Study) -> Verdict:
    """The same caption for a picture without anything in it."""
    same = study.captions[0].text == study.grey_caption
    return verdict(
        "Does the photo matter?",
        f"an evenly grey picture gives {'the same caption' if same else repr(study.grey_caption)}",
        bad=same,
        advice="The caption does not come from the photo. Look at the image's part and the gates below; then "
        "train longer or with a higher optim.lr.",
    )


def check_image_share(study: Study) -> Verdict | None:
    """How much cross-attention adds to the state."""
    if not study.best or not study.best.image_share.numel():
        return None
    share = float(study.best.image_share.max(dim=0).values.mean())  # the strongest layer of each token
    return verdict(
        "The image's part",
        f"in its strongest layer, what the image adds is {share:.1%} of the state it is added to",
        bad=share < 0.01,
        warn=share < 0.05,
        advice="Cross-attention has hardly begun to work: train longer, or raise optim.lr.",
    )


def check_gates(study: Study) -> Verdict | None:
    """Gates that have stayed shut."""
    if not study.best or not study.best.gates.numel():
        return None
    sizes = study.best.gates.abs()
    return verdict(
        "Gates",
        f"largest {float(sizes.max()):.3f}, mean {float(sizes.mean()):.3f} (0 is shut, 1 is open)",
        bad=float(sizes.max()) < 0.02,
        warn=float(sizes.max()) < 0.1,
        advice="The gates have hardly opened: train longer, raise optim.lr, or take model.start=projection.",
    )


def check_attention(study: Study) -> Verdict | None:
    """Attention that looks at everything alike."""
    if not study.best or not study.best.attention.numel():
        return None
    weights = study.best.attention.clamp_min(1e-12)  # (layers, heads, tokens, patches)
    evenness = -(weights * weights.log()).sum(-1) / math.log(weights.shape[-1])
    sharpest = float(evenness.mean(dim=-1).min())  # of the heads
    return verdict(
        "Attention",
        f"its sharpest head spreads over {weights.shape[-1] ** sharpest:.0f} of {weights.shape[-1]} patches",
        warn=sharpest > 0.98,
        advice="Every head takes the mean of the image: little training, or features that are all alike.",
    )


def check_features(study: Study) -> Verdict:
    """Patches that all say the same, or that say what a grey picture says."""
    patches = torch.nn.functional.normalize(study.features, dim=-1)  # (patches, vision_dim)
    grey = torch.nn.functional.normalize(study.grey_features, dim=-1)
    alike = float((patches.mean(0) ** 2).sum())  # mean cosine of all pairs
    to_grey = float((patches * grey).sum(-1).mean())
    return verdict(
        "Features",
        f"patches are alike to {alike:.3f}, and like a grey picture's to {to_grey:.3f} (cosine)",
        bad=to_grey > 0.995,
        warn=alike > 0.98 or to_grey > 0.97,
        advice="The encoder tells this photo from nothing only just: random weights, another normalisation than "
        "it was trained with, or a photo of one colour.",
    )


def check_photo(study: Study) -> Verdict:
    """A photo with little in it."""
    contrast = float(study.encoder_input.std(axis=(0, 1)).max())  # of the colours
    return verdict(
        "Contrast",
        f"the pixels that the encoder sees spread by {contrast:.0f} of 255 grey levels",
        bad=contrast < 3,
        warn=contrast < 12,
        advice="Nearly one colour: check that the file is the photo you mean.",
    )


def check_crop(study: Study) -> Verdict:
    """A photo far from square, of which the encoder sees the middle only."""
    height, width = study.photo.shape[:2]
    return verdict(
        "What is cropped away",
        f"the encoder sees {study.window.share:.0%} of the photo's {width} x {height} pixels",
        bad=study.window.share < 0.4,
        warn=study.window.share < 0.6,
        advice="What lies at the ends is invisible to this model. Crop the photo around its subject first, or "
        "train with an encoder that does not crop.",
    )


def check_shape(study: Study) -> Verdict:
    """A photo drawn out of its proportions, or blown up."""
    stretch = max(study.stretch, 1 / study.stretch)
    warped, small = stretch > 1.5, study.enlarged > 2
    return verdict(
        "Size and proportions",
        f"proportions changed {stretch:.2f} times, a side scaled {study.enlarged:.2f} times",
        warn=warped or small,
        advice="A stretched photo looks unlike those the encoder was trained with; one that is enlarged more "
        "than twice has too few pixels.",
    )
