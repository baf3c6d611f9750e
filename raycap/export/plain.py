"""Captions from an exported folder with transformers alone, as the model card's snippet makes them.

Imports nothing of raycap but the form of its results, so that what is verified is what others will run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from raycap.vision.encoder import quiet_transformers


class PlainCaptioner:
    """An exported folder, loaded."""

    def __init__(self, folder: Path, *, takes: str, layer: int) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

        self.takes, self.layer = takes, layer
        self.feature_map = False
        """Whether the encoder gave one, as convolutional ones do; known once it has run."""
        with quiet_transformers():
            self.model: Any = VisionEncoderDecoderModel.from_pretrained(folder).eval()
            self.processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """Normalised features of RGB images: (batch, patches, vision_dim)."""
        pixels = self.processor(images, return_tensors="pt").pixel_values
        if self.takes == "pixels" or self.layer == -1:
            states = self.model.encoder(pixels).last_hidden_state
        else:
            states = self.model.encoder(pixels, output_hidden_states=True).hidden_states[self.layer]
        self.feature_map = states.ndim == 4
        if self.feature_map:
            states = states.flatten(2).mT
        states = states if self.takes == "pixels" else states.half().float()
        return F.layer_norm(states, states.shape[-1:])

    @torch.no_grad()
    def tokens(self, images: list[Image.Image], **settings: Any) -> list[list[int]]:
        """Token ids of the images' captions, start token first; settings go over the folder's own."""
        from transformers.modeling_outputs import BaseModelOutput

        with quiet_transformers():
            if self.takes == "pixels":
                pixels = self.processor(images, return_tensors="pt").pixel_values
                rows = self.model.generate(pixels, **settings)
            else:
                features = BaseModelOutput(self.features(images))
                rows = self.model.generate(encoder_outputs=features, **settings)
        return [self._cut(row) for row in rows.tolist()]

    def text(self, tokens: list[int]) -> str:
        """The caption that tokens spell."""
        decoded: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded.strip()

    def _cut(self, row: list[int]) -> list[int]:
        end = self.model.generation_config.eos_token_id
        return row[: row.index(end, 1)] if end in row[1:] else row
