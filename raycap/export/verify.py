"""An exported folder against the checkpoint it came from: same features, same captions on pictures.

Two questions, since raycap rounds features to float16 and transformers does not: are the features the same within
that rounding, and do both models say the same of the same features. The first may move a near tie, the second may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from raycap.checkpoint import CheckpointError
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, Pixels
from raycap.export.plain import PlainCaptioner
from raycap.export.record import Record, Said

PROBES = 8
# Largest mean difference of normalised features, by the precision that raycap's encoder computes in. float16 rounds
# to 11 bits, which is 0.0002 here.
NEAR = {"float32": 0.002, "float16": 0.01, "bfloat16": 0.08}


def draw_probes(side: int) -> list[Pixels]:
    """Pictures of random patches, some square at the encoder's size, some not; the same ones every time."""
    generator = np.random.default_rng(12)
    pictures = []
    for number in range(PROBES):
        patches = generator.integers(0, 256, (3 + number, 5, 3), dtype=np.uint8)
        width = side if number % 2 else side + 16 * number
        picture = Image.fromarray(patches).resize((width, side), Image.Resampling.BICUBIC)
        pictures.append(np.asarray(picture))
    return pictures


def settings_to_try(decoding: DecodingConfig) -> list[DecodingConfig]:
    """The checkpoint's own decoding (three beams where it samples, which no two libraries do alike), and greedy."""
    shared = ("max_tokens", "min_tokens", "length_penalty", "repetition_penalty", "no_repeat_ngram")
    kept = {name: getattr(decoding, name) for name in shared}
    own = DecodingConfig(beams=3 if decoding.sample else decoding.beams, **kept)
    return [own, DecodingConfig(beams=1, **kept)] if own.beams > 1 else [own]


def in_their_words(decoding: DecodingConfig) -> dict[str, object]:
    """What differs between `settings_to_try`, over a folder's own generation config."""
    words: dict[str, object] = {"num_beams": decoding.beams, "num_return_sequences": 1, "do_sample": False}
    return {**words, "length_penalty": decoding.length_penalty} if decoding.beams > 1 else words


def verify_against(
    plain: PlainCaptioner, engine: CaptionEngine, pictures: Sequence[Pixels]
) -> tuple[tuple[Said, ...], str]:
    """What the export says of the pictures, and how much of that is raycap's from file to text ("16 of 16").

    Raises:
        CheckpointError: features or captions that are not raycap's.
    """
    images = [Image.fromarray(picture) for picture in pictures]
    features = plain.features(images)
    _check_features(features, engine, pictures)
    said, same, total = [], 0, 0
    for decoding in settings_to_try(engine.manifest.decoding):
        tokens = plain.tokens(images, **in_their_words(decoding))
        texts = [plain.text(row) for row in tokens]
        of_features = [found[0].text for found in engine.caption_features(features, decoding)]
        for picture, (theirs, ours) in enumerate(zip(texts, of_features, strict=True)):
            if theirs != ours:
                raise CheckpointError(
                    f"the export does not say what raycap says (beams={decoding.beams}, picture {picture}: {theirs!r} "
                    f"and not {ours!r}), so it was not written; take --form adapter"
                )
        whole = engine.caption_features(engine.features(pictures), decoding)
        same += sum(text == found[0].text for text, found in zip(texts, whole, strict=True))
        total += len(texts)
        said.append(Said(decoding=decoding, tokens=tuple(map(tuple, tokens))))
    _check_share(same, total, engine)
    return tuple(said), f"{same} of {total}"


def _check_features(features: torch.Tensor, engine: CaptionEngine, pictures: Sequence[Pixels]) -> None:
    ours = engine.features(pictures).float().cpu()
    difference = float((features - F.layer_norm(ours, ours.shape[-1:])).abs().mean())
    allowed = NEAR[engine.encoder.config.dtype]
    if not difference <= allowed:
        raise CheckpointError(
            f"the exported encoder's features differ from raycap's by {difference:.4f} on average (allowed: "
            f"{allowed}), so nothing was written; take --form adapter"
        )


def _check_share(same: int, total: int, engine: CaptionEngine) -> None:
    """From file to text near ties may fall otherwise; with an encoder in float32 that is one caption in many."""
    if engine.encoder.config.dtype == "float32" and same < 0.85 * total:
        raise CheckpointError(
            f"from file to text only {same} of {total} captions are raycap's, so nothing was written; "
            "take --form adapter"
        )


def verify_alone(folder: Path, record: Record) -> None:
    """Load an exported folder with transformers and hold its captions against those recorded at export.

    Raises:
        CheckpointError: it cannot be loaded, or says something else now.
    """
    try:
        plain = PlainCaptioner(folder, takes=record.takes, layer=record.layer)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"damaged export: {folder} cannot be loaded: {str(error).splitlines()[0]}"
        ) from None
    images = [Image.fromarray(picture) for picture in draw_probes(record.side)]
    for said in record.said:
        tokens = plain.tokens(images, **in_their_words(said.decoding))
        if tuple(map(tuple, tokens)) != said.tokens:
            raise CheckpointError(
                f"{folder} does not say what it said when it was exported (beams={said.decoding.beams}); "
                "export again with the libraries installed here"
            )
