"""Photos to captions as transformers' own documentation does it: image processor, vision tower, generate().

Knows no server. As in the `decode` benchmark every caption has the same number of tokens, the end token banned
before the last.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raycap.benchmarks.decoders import Generate
from raycap.benchmarks.peers_serve import Dtype
from raycap.engine import CaptionEngine, Pixels
from raycap.vision import decode_image


class PeerCaptioner:
    """A CLIP vision tower and a GPT-2 with cross-attention, from a folder of `save_peer_models`."""

    def __init__(self, folder: Path, *, threads: int, beams: int = 3, dtype: Dtype = "float32") -> None:
        from transformers import AutoImageProcessor, CLIPVisionModel, GPT2LMHeadModel, GPT2Tokenizer

        torch.set_num_threads(threads)
        self.beams, self.dtype = beams, getattr(torch, dtype)
        self.processor = AutoImageProcessor.from_pretrained(folder / "clip", backend="pil")
        self.encoder = CLIPVisionModel.from_pretrained(folder / "clip", dtype=self.dtype).eval()
        self.tokenizer = GPT2Tokenizer.from_pretrained(folder / "gpt2")
        self.generate = Generate(GPT2LMHeadModel.from_pretrained(folder / "gpt2", dtype=self.dtype).eval())

    def read(self, photo: bytes) -> Tensor:
        """Encoder input of an encoded photo: (1, 3, height, width)."""
        image = Image.open(io.BytesIO(photo)).convert("RGB")
        pixels: Tensor = self.processor(image, return_tensors="pt")["pixel_values"]
        return pixels

    @torch.inference_mode()
    def caption(self, pixels: list[Tensor]) -> list[str]:
        """A caption for each photo."""
        features = self.encoder(
            torch.cat(pixels).to(self.dtype)
        ).last_hidden_state  # (batch, patches, vision_dim)
        tokens = self.generate(features, beams=self.beams)
        captions: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return captions


class RaycapCaptioner:
    """raycap's engine over a run, as a batch at a time sees it: to tell what the scheduler adds."""

    def __init__(self, run: Path, *, threads: int, beams: int = 3, dtype: Dtype = "float32") -> None:
        torch.set_num_threads(threads)
        self.engine = CaptionEngine.load(str(run), device="cpu", precision=dtype)
        self.decoding = self.engine.decoding(beams=beams)

    def read(self, photo: bytes) -> Pixels:
        """Encoder input of an encoded photo: uint8 (3, height, width)."""
        return self.engine.preprocess(decode_image(photo))

    def caption(self, pixels: list[Pixels]) -> list[str]:
        """A caption for each photo."""
        found = self.engine.caption_features(self.engine.encode(np.stack(pixels)), self.decoding)
        return [captions[0].text for captions in found]
