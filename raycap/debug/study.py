"""One photo through one checkpoint, everything kept that tells how its caption came about. Judges nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raycap import checkpoint
from raycap.checkpoint import Manifest
from raycap.debug.grid import PatchGrid, Window, patch_grid, visible_window
from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, Pixels
from raycap.models.base import Explanation
from raycap.schema import Caption
from raycap.text import CaptionTokenizer

GREY = 128  # of the empty picture that the photo is held against


@dataclass(frozen=True)
class Study:
    """What a checkpoint saw in a photo and did with it."""

    photo: Pixels
    """(height, width, 3) as decoded."""
    encoder_input: Pixels
    """(height, width, 3) as the encoder gets it, before it is normalised."""
    window: Window
    """The part of the photo that the encoder's input shows."""
    stretch: float
    """How much wider than the photo's its proportions are drawn; 1 where they are kept."""
    enlarged: float
    """Pixels of the encoder's input over those of the photo, along a side; above 1 the photo is too small."""
    features: Tensor
    """(patches, vision_dim) float32."""
    grey_features: Tensor
    """Of an evenly grey picture, likewise."""
    grid: PatchGrid | None
    captions: list[Caption]
    """Best first."""
    grey_caption: str
    """Of the evenly grey picture."""
    explanations: list[Explanation]
    """Of the captions; empty where the family gives none."""
    decoding: DecodingConfig
    precision: str
    vocabulary_cut: bool
    vocabulary: tuple[int, ...]
    """Token ids of the training captions; empty where unknown."""
    tokenizer: CaptionTokenizer
    manifest: Manifest

    @property
    def best(self) -> Explanation | None:
        """Of the best caption, where the family explains it."""
        return self.explanations[0] if self.explanations else None

    def token_text(self, token: int) -> str:
        """A token as it reads inside a caption."""
        if token == self.tokenizer.end_id:
            return "⟨end⟩"
        text: str = self.tokenizer.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text


def study_photo(
    engine: CaptionEngine, photo: Pixels, decoding: DecodingConfig, *, precision: str, vocabulary_cut: bool
) -> Study:
    """Caption a photo (height, width, 3) and an evenly grey picture of its size, keeping what is on the way."""
    grey = np.full_like(photo, GREY)
    features, grey_features = engine.features([photo]), engine.features([grey])  # (1, patches, vision_dim)
    with torch.inference_mode():
        explanations = engine.model.explain(features, decoding)
    captions = [one.caption for one in explanations] or engine.caption_features(features, decoding)[0]
    encoder_input = np.ascontiguousarray(engine.preprocess(photo).transpose(1, 2, 0))
    preprocess = engine.encoder.preprocess
    height, width = photo.shape[:2]
    size = preprocess.output_size
    window = visible_window(preprocess, height=height, width=width)
    kept = (height * window.height, width * window.width)  # pixels of the photo that are seen
    tokenizer, vocabulary = checkpoint.read_tokens(engine.path)
    return Study(
        photo=photo,
        encoder_input=encoder_input,
        window=window,
        stretch=(size[1] / size[0]) / (kept[1] / kept[0]),
        enlarged=min(size[0] / kept[0], size[1] / kept[1]),
        features=features[0].float().cpu(),
        grey_features=grey_features[0].float().cpu(),
        grid=patch_grid(features.shape[1], size=size, patch_size=model_patch_size(engine)),
        captions=captions,
        grey_caption=engine.caption_features(grey_features, decoding)[0][0].text,
        explanations=explanations,
        decoding=decoding,
        precision=precision,
        vocabulary_cut=vocabulary_cut,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        manifest=engine.manifest,
    )


def model_patch_size(engine: CaptionEngine) -> object:
    """The encoder's patch size in pixels as its config has it; 0 where it has none."""
    config = getattr(getattr(engine.encoder, "model", None), "config", None)
    return getattr(config, "patch_size", 0)
