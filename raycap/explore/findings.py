"""What of a survey a person should know first, as verdicts. Limits are rules of thumb, named where they are used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raycap.explore.oddities import Oddity
from raycap.explore.similar import NearPhotos
from raycap.explore.survey import Survey
from raycap.explore.words import Counts, Vocabulary
from raycap.pages import Verdict, verdict, worst_first

SMALL_SIDE = 200  # pixels
FAR_FROM_SQUARE = 2.0  # long side over short side; a centre crop then shows less than half


def find(
    survey: Survey,
    vocabulary: Vocabulary,
    *,
    photos: Sequence[NearPhotos],
    oddities: Sequence[Oddity],
    tokens: Counts | None,
    max_tokens: int,
) -> list[Verdict]:
    """All verdicts, the worst first."""
    found = [
        leaks(survey, photos),
        unreadable(survey),
        repeated_photos(photos, len(survey.looks)),
        captions_an_image(survey),
        odd_captions(oddities, len(survey.captions)),
        shapes(survey),
        rare_words(vocabulary),
    ]
    return worst_first(found if tokens is None else [*found, too_long(tokens, max_tokens)])


def leaks(survey: Survey, photos: Sequence[NearPhotos]) -> Verdict:
    """Photos that lie in two splits."""
    pairs = [pair for pair in photos if survey.splits[pair.first] != survey.splits[pair.second]]
    many = len(pairs) > 1
    return verdict(
        "Photos in two splits",
        f"{len(pairs):,} pair{'s' * many} of photos that look the same {'lie' if many else 'lies'} in different splits"
        if pairs
        else "none found",
        bad=bool(pairs),
        advice="A model is scored on photos it has trained on; take them out of the training split.",
    )


def unreadable(survey: Survey) -> Verdict:
    """Photos that cannot be decoded."""
    bad = [name for name, look in zip(survey.image_ids, survey.looks, strict=True) if look.problem]
    return verdict(
        "Unreadable photos",
        f"{len(bad):,}, the first {bad[0]!r}" if bad else "none",
        bad=bool(bad),
        advice="`raycap prepare` writes no such rows: the files have been damaged since, or come from elsewhere.",
    )


def repeated_photos(photos: Sequence[NearPhotos], images: int) -> Verdict:
    """Photos that are there more than once."""
    places = {place for pair in photos for place in (pair.first, pair.second)}
    share = len(places) / max(images, 1)
    return verdict(
        "Photos that look the same",
        f"{len(places):,} of {images:,} photos have a twin" if places else "none found",
        warn=share > 0.01,
        advice="A model sees them more often than others; see the pairs below.",
    )


def captions_an_image(survey: Survey) -> Verdict:
    """Whether images have as many captions as each other."""
    counts = np.bincount(survey.owner, minlength=len(survey.image_ids))
    few, many = int(counts.min(initial=counts.max(initial=0))), int(counts.max(initial=0))
    return verdict(
        "Captions an image",
        f"{few}" if few == many else f"{few} to {many}, {float(counts.mean()):.2f} on average",
        warn=few == 0,
        advice="Images without a caption teach nothing.",
    )


def odd_captions(oddities: Sequence[Oddity], captions: int) -> Verdict:
    """Captions of all odd kinds together."""
    worst = max(oddities, key=lambda oddity: oddity.count)
    total = sum(oddity.count for oddity in oddities)
    return verdict(
        "Odd captions",
        f"{total:,} cases, most of them {worst.name} ({worst.count:,})" if total else "none found",
        bad=total > 0.05 * captions,
        warn=total > 0.005 * captions,
        advice="See the table below for what they are and what they do.",
    )


def shapes(survey: Survey) -> Verdict:
    """Photos that an encoder's resize and crop leave little of."""
    sizes = np.array([(look.width, look.height) for look in survey.looks if not look.problem]).reshape(-1, 2)
    long = int((sizes.max(axis=1) > FAR_FROM_SQUARE * sizes.min(axis=1)).sum())
    small = int((sizes.min(axis=1) < SMALL_SIDE).sum())
    return verdict(
        "Sizes",
        f"{small:,} photos with a side below {SMALL_SIDE} pixels, {long:,} more than "
        f"{FAR_FROM_SQUARE:g} times as long as wide",
        warn=small + long > 0.05 * len(sizes),
        advice="Small ones are enlarged for the encoder; of long ones a centre crop shows less than half.",
    )


def rare_words(vocabulary: Vocabulary) -> Verdict:
    """How much of what is said is said often enough to be learnt."""
    covered = vocabulary.covered(at_least=5)
    return verdict(
        "Rare words",
        f"{covered:.1%} of all words said are words said five times or more",
        warn=covered < 0.9,
        advice="Much is said too rarely to be learnt from these captions alone: more data, or a language model "
        "that knows the words already.",
    )


def too_long(tokens: Counts, max_tokens: int) -> Verdict:
    """Captions that training cuts."""
    cut = int((tokens > max_tokens).sum())
    return verdict(
        "Captions that training cuts",
        f"{cut:,} of {len(tokens):,} are longer than train.max_tokens={max_tokens}",
        bad=cut > 0.05 * len(tokens),
        warn=cut > 0,
        advice=f"Their ends are lost; the longest has {int(tokens.max(initial=0))} tokens: raise train.max_tokens.",
    )
