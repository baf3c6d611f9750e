"""Both towers of a CLIP: embeddings of images and of captions, for CLIPScore.

An encoder's settings name a model; only where that is a whole CLIP, text tower and tokenizer included, is there
anything here. Knows nothing of scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from raycap.config import ConfigError
from raycap.vision.encoder import EncoderConfig, download, find_model, quiet_transformers, weight_files
from raycap.vision.preprocess import Preprocessor

TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
TEXT_BATCH = 256
Floats = npt.NDArray[np.float64]


class ClipUnavailableError(ValueError):
    """The encoder is no whole CLIP; the message says what it lacks."""


def find_clip(config: EncoderConfig) -> Path:
    """Folder of a whole CLIP.

    Raises:
        ClipUnavailableError: another kind of model, no text tower, or no tokenizer.
    """
    try:
        folder = find_model(config.name, config.revision)
    except ConfigError as error:
        raise ClipUnavailableError(str(error)) from None
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "clip":
        raise ClipUnavailableError(
            f"it needs a whole CLIP, and the run's encoder {config.name} is a model of type {kind!r}"
        )
    if not any(name.startswith("text_model.") for name in _tensor_names(folder)):
        raise ClipUnavailableError(
            f"it needs a whole CLIP, and the weights of the run's encoder {config.name} have no text tower"
        )
    if not _has_tokenizer(folder) and not Path(config.name).expanduser().is_dir():
        try:
            folder = download(config.name, config.revision, patterns=TOKENIZER_FILES)
        except ConfigError as error:
            raise ClipUnavailableError(str(error)) from None
    if not _has_tokenizer(folder):
        raise ClipUnavailableError(f"it needs CLIP's tokenizer, and the run's encoder {config.name} has none")
    return folder


def _has_tokenizer(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZERS)


def _tensor_names(folder: Path) -> Iterator[str]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            yield from tensors.keys()


class Clip:
    """A whole CLIP on one device, in float32."""

    def __init__(self, model: Any, tokenizer: Any, preprocess: Preprocessor, *, device: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self._scale = torch.tensor(preprocess.scale, device=device)[:, None, None]  # (3, 1, 1)
        self._shift = torch.tensor(preprocess.shift, device=device)[:, None, None]

    @classmethod
    def load(cls, config: EncoderConfig, *, device: str) -> Self:
        """The CLIP that an encoder's settings name.

        Raises:
            ClipUnavailableError: as `find_clip`.
        """
        from transformers import AutoTokenizer, CLIPModel

        folder = find_clip(config)
        with quiet_transformers():
            model = CLIPModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        model = model.eval().requires_grad_(False).to(device)
        return cls(model, tokenizer, Preprocessor.load(folder), device=device)

    @torch.inference_mode()
    def embed_images(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Preprocessed images uint8 (batch, 3, height, width) -> (batch, dim), not normalised."""
        values = torch.from_numpy(pixels).to(self.device).float().mul_(self._scale).add_(self._shift)
        return _array(self.model.get_image_features(pixel_values=values))

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Texts -> (texts, dim), not normalised; what is longer than the text tower reads is cut."""
        limit = self.model.config.text_config.max_position_embeddings
        found = []
        for begin in range(0, len(texts), TEXT_BATCH):
            batch = self.tokenizer(
                list(texts[begin : begin + TEXT_BATCH]),
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            ).to(self.device)
            found.append(
                _array(
                    self.model.get_text_features(
                        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
                    )
                )
            )
        return np.concatenate(found)


def _array(features: Any) -> Floats:
    pooled = getattr(features, "pooler_output", features)  # a tensor before transformers 5
    array: Floats = pooled.double().cpu().numpy()
    return array
