"""The usual reasons for an empty, repetitive or wrong caption, each a small check of a Study with its verdict.

Here all of them in a row, and those of the checkpoint itself; said.py has those of the caption, seen.py those of the
photo. A check gives None where it does not apply (no gates, a family that explains nothing). Their limits are rules
of thumb, chosen so that a healthy run of the presets passes.
"""

from __future__ import annotations

import torch

from raycap.debug import said, seen
from raycap.debug.study import Study
from raycap.pages import Verdict, verdict, worst_first


def judge(study: Study) -> list[Verdict]:
    """Verdicts of all checks that apply, the worst first."""
    return worst_first(found for check in CHECKS if (found := check(study)))


def check_numbers(study: Study) -> Verdict:
    """NaN or infinity, from the encoder or in the model."""
    odd = [] if bool(torch.isfinite(study.features).all()) else ["features"]
    if study.best and bool(torch.isnan(study.best.log_probabilities).any()):
        odd.append("probabilities")
    return verdict(
        "Numbers",
        f"not finite: {', '.join(odd)}" if odd else "features and probabilities are finite",
        bad=bool(odd),
        advice="Take encoder.dtype=float32 and precision=float32; if it stays, the weights are damaged.",
    )


def check_encoder(study: Study) -> Verdict:
    """That the encoder is the one that was trained with: the engine refuses another."""
    trained = study.manifest.encoder
    return Verdict(
        "good",
        "Encoder and preprocessing",
        f"{trained.config.name} is the one trained with: weights, preprocessing, layer {trained.config.layer} and "
        f"{trained.config.dtype} have fingerprint {trained.fingerprint[:12]}",
    )


def check_training(study: Study) -> Verdict:
    """A checkpoint from the first steps, or one that scored low."""
    own = study.manifest
    early = own.step < 200
    scored = own.metrics.get("cider_d")
    low = scored is not None and scored < 0.1
    score = "" if scored is None else f", CIDEr-D {scored:.3f} on its validation photos"
    return verdict(
        "Training",
        f"step {own.step:,}, epoch {own.epoch}{score}",
        bad=own.step == 0,
        warn=early or low,
        advice="A model of so few steps says what the language model says anyway: train on "
        "(`raycap train --resume RUN`)."
        if early
        else "The checkpoint scores low on its own validation photos: this is no fault of this photo.",
    )


CHECKS = (
    check_numbers,
    said.check_empty,
    said.check_repetition,
    said.check_repeated_phrase,
    said.check_cut,
    said.check_settings,
    said.check_confidence,
    seen.check_grey,
    seen.check_image_share,
    seen.check_gates,
    seen.check_attention,
    seen.check_features,
    seen.check_photo,
    seen.check_crop,
    seen.check_shape,
    check_encoder,
    said.check_vocabulary,
    check_training,
    said.check_precision,
)
