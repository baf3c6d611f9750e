"""The usual reasons for an empty, repetitive or wrong caption, each a small check of a Study with its verdict.

A check gives None where it does not apply (no gates, a family that explains nothing). Limits are named above
their use; they are rules of thumb, chosen so that a healthy run of the presets passes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

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


def check_empty(study: Study) -> Verdict | None:
    """The end token where the caption should begin."""
    if not study.best:
        return None
    first = math.exp(float(study.best.log_probabilities[0, study.tokenizer.end_id]))
    return verdict(
        "End at the first token",
        f"probability {first:.3g} that the caption ends before its first word",
        bad=first > 0.5 or not study.captions[0].text,
        warn=first > 0.05,
        advice="Set --min-tokens 3 to see what comes behind; then look for empty captions in the training rows "
        "(`raycap explore`), and whether the language model was trained with an end token first.",
    )


def check_repetition(study: Study) -> Verdict:
    """The same words again and again."""
    loop = find_loop(words_of(study))
    return verdict(
        "Repetition",
        f"{' '.join(loop)!r} comes three times or more in a row" if loop else "no words in a loop",
        bad=bool(loop),
        advice="Set --no-repeat-ngram 3 or --repetition-penalty 1.2; a model that loops by itself is usually "
        "trained too little, or does not see the image.",
    )


def words_of(study: Study) -> list[str]:
    """Of the best caption, in small letters, without punctuation."""
    return re.findall(r"[\w'’-]+", study.captions[0].text.lower())


def find_loop(words: Sequence[str], *, times: int = 3, longest: int = 6) -> list[str]:
    """The shortest run of at most `longest` words that follows itself so many times; empty where there is none."""
    for size in range(1, longest + 1):
        for begin in range(len(words) - size * times + 1):
            unit = list(words[begin : begin + size])
            if list(words[begin : begin + size * times]) == unit * times:
                return unit
    return []


def check_repeated_phrase(study: Study) -> Verdict | None:
    """Phrases that come again with other words between."""
    words = words_of(study)
    if len(words) < 4:
        return None
    phrases = Counter(zip(words, words[1:], words[2:], strict=False))
    phrase, count = phrases.most_common(1)[0]
    return verdict(
        "Phrases said twice",
        f"{' '.join(phrase)!r} comes {count} times" if count > 1 else "no three words come together twice",
        warn=count > 1,
        advice="--no-repeat-ngram 3 forbids it; a better trained model rarely needs that.",
    )


def check_cut(study: Study) -> Verdict | None:
    """A caption that did not end by itself."""
    if not study.best:
        return None
    ended = study.best.token_ids[-1:] == [study.tokenizer.end_id]
    limit = study.decoding.max_tokens
    return verdict(
        "Ending",
        "the caption ends by itself" if ended else f"cut off at {limit} tokens, without an end token",
        warn=not ended,
        advice=f"Set --max-tokens above {limit}; where it then goes on and on, the training captions were cut "
        "(train.max_tokens) so that the model never learned to end.",
    )


def check_settings(study: Study) -> Verdict:
    """Decoding settings that press captions into a shape."""
    own = study.decoding
    odd = {
        f"max_tokens={own.max_tokens}": own.max_tokens < 10,
        f"min_tokens={own.min_tokens}": own.min_tokens > 10,
        f"length_penalty={own.length_penalty:g}": not -0.01 <= own.length_penalty <= 2,
        f"repetition_penalty={own.repetition_penalty:g}": not 0.9 <= own.repetition_penalty <= 1.5,
        f"temperature={own.temperature:g}": own.sample and own.temperature > 1.2,
        f"no_repeat_ngram={own.no_repeat_ngram}": own.no_repeat_ngram == 1,
    }
    named = [name for name, is_odd in odd.items() if is_odd]
    return verdict(
        "Decoding settings",
        f"unusual: {', '.join(named)}" if named else "within the usual",
        warn=bool(named),
        advice="max_tokens and a negative length_penalty make captions short, penalties make them odd, a high "
        "temperature makes them random; leave them out to see the model's own choice.",
    )


def check_confidence(study: Study) -> Verdict | None:
    """Tokens that the model itself holds for unlikely."""
    if not study.best:
        return None
    chosen = study.best.log_probabilities.gather(1, torch.tensor(study.best.token_ids)[:, None])
    mean = math.exp(float(chosen.mean()))
    return verdict(
        "Confidence",
        f"a token has probability {mean:.2f} on (geometric) average",
        warn=mean < 0.15,
        advice="The model is guessing: a photo unlike the training photos, little training, or a high "
        "temperature. Compare with a training photo.",
    )


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


def check_encoder(study: Study) -> Verdict:
    """That the encoder is the one that was trained with: the engine refuses another."""
    trained = study.manifest.encoder
    return Verdict(
        "good",
        "Encoder and preprocessing",
        f"{trained.config.name} is the one trained with: weights, preprocessing, layer {trained.config.layer} and "
        f"{trained.config.dtype} have fingerprint {trained.fingerprint[:12]}",
    )


def check_vocabulary(study: Study) -> Verdict | None:
    """What a head cut to the training captions' tokens leaves out."""
    if not study.best or not study.vocabulary:
        return None
    known = torch.zeros(study.best.log_probabilities.shape[1], dtype=torch.bool)
    known[list(study.vocabulary)] = True
    outside = float(study.best.log_probabilities[:, ~known].exp().sum(-1).max()) if not known.all() else 0.0
    cut = "are cut off" if study.vocabulary_cut else "may be used"
    return verdict(
        "Vocabulary",
        f"tokens that no training caption uses {cut}; at most {outside:.1%} of a step's probability lies on them",
        warn=study.vocabulary_cut and outside > 0.1,
        advice="The model would say words that the cut forbids: take --vocabulary all.",
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


def check_precision(study: Study) -> Verdict | None:
    """Whether the decoder's scores are those of the plain float32 model."""
    own = study.decoding
    if not study.best or own.penalises or study.vocabulary_cut:
        return None
    chosen = study.best.log_probabilities.gather(1, torch.tensor(study.best.token_ids)[:, None])
    difference = abs(float(chosen.sum()) / len(chosen) ** own.length_penalty - study.best.caption.score)
    return verdict(
        "Decoder against the plain model",
        f"the caption's score in {study.precision} differs by {difference:.2g} from plain float32",
        warn=difference > 0.1,
        advice="Rounding changes scores: captions may differ from those in float32; compare with "
        "--precision float32.",
    )


CHECKS = (
    check_numbers,
    check_empty,
    check_repetition,
    check_repeated_phrase,
    check_cut,
    check_settings,
    check_confidence,
    check_grey,
    check_image_share,
    check_gates,
    check_attention,
    check_features,
    check_photo,
    check_crop,
    check_shape,
    check_encoder,
    check_vocabulary,
    check_training,
    check_precision,
)
