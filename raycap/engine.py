"""Images in, captions out: a checkpoint, its frozen encoder and its decoding behind one object.

Python callers, `raycap caption`, `raycap evaluate` and serving all caption through this. What to load
(encoder, tokenizer, family, decoding) comes from the checkpoint's manifest; callers only say where it runs
and in what precision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias, get_args, overload

import numpy as np
import torch
from pydantic import ValidationError, model_validator
from torch import Tensor

from raycap import checkpoint
from raycap.checkpoint import EncoderInfo, Manifest
from raycap.config import ConfigError, Frozen, describe_validation_error
from raycap.decoding import DecodingConfig
from raycap.models import CaptionGroup, CaptionModel
from raycap.models.kernels import Precision
from raycap.schema import Caption
from raycap.vision import BadImageError, EncoderConfig, VisionEncoder, choose_device, decode_image
from raycap.vision.reading import ImageInput, encode_image

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Vocabulary: TypeAlias = Literal["all", "captions"]


class EngineOptions(Frozen):
    """Where and how a checkpoint's models run: what commands and deployments share."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """What models compute on; auto takes a GPU where there is one."""
    precision: Precision = "float32"
    """Of the language model: float32, bfloat16 or int8."""
    vocabulary: Vocabulary = "all"
    """Tokens that captions may use: all, or those of the training captions, which is faster."""
    encoder: str = ""
    """Where the image encoder lies now, if it has moved since training."""
    language_model: str = ""
    """Where the language model lies now, if it has moved since training."""

    def of_engine(self) -> dict[str, Any]:
        """As keywords of CaptionEngine.load, without what a subclass adds."""
        return {name: getattr(self, name) for name in EngineOptions.model_fields}


class GivenDecoding(DecodingConfig):
    """Settings to put over a checkpoint's own: held against each other only once they are merged."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Nothing: `n=5` alone is right where the checkpoint has five beams."""
        return self


class CaptionEngine:
    """A captioner on one device. Make one with `CaptionEngine.load` (or `raycap.load`)."""

    def __init__(self, model: CaptionModel, encoder: VisionEncoder, *, manifest: Manifest, path: str) -> None:
        self.model = model
        self.encoder = encoder
        self.manifest = manifest
        self.path = path

    @classmethod
    def load(
        cls,
        path: str,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        vocabulary: Vocabulary = "all",
        encoder: str = "",
        language_model: str = "",
        beside: Self | None = None,
    ) -> Self:
        """Load a checkpoint, verified, ready to caption.

        Args:
            path: a run folder (its best by metric), RUN/last, RUN/best-loss, or a checkpoint folder.
            device: "auto", "cuda", "mps" or "cpu".
            precision: of the language model. The encoder keeps the precision it was trained with.
            vocabulary: "captions" holds captions to the tokens of the training captions: a smaller, faster head.
            encoder: where the image encoder lies now, if it has moved since training.
            language_model: likewise for the frozen language model.
            beside: an engine over the same encoder, loaded in the same way, whose frozen weights are shared.

        Raises:
            checkpoint.CheckpointError: absent, damaged, or its language model is another one now.
            ConfigError: another encoder than the one trained with, or a device, precision or vocabulary
                that is not to be had.
        """
        for name, value, kind in (
            ("precision", precision, Precision),
            ("vocabulary", vocabulary, Vocabulary),
        ):
            if value not in get_args(kind):
                raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(get_args(kind))}")
        device = choose_device(device)
        loaded = checkpoint.load(path, language_model=language_model)
        trained = loaded.manifest.encoder
        vision = (
            beside.encoder if beside else VisionEncoder(moved_encoder(trained.config, encoder), device=device)
        )
        check_encoder(vision, trained)
        if vocabulary == "captions" and not loaded.vocabulary:
            raise ConfigError(
                f"{loaded.path} does not tell which tokens its training captions use (raycap wrote it before it "
                "kept them); leave vocabulary=all"
            )
        model = loaded.model.to(device)
        model.prepare_inference(
            precision,
            vocabulary=loaded.vocabulary if vocabulary == "captions" else (),
            beside=beside.model if beside else None,
        )
        return cls(model, vision, manifest=loaded.manifest, path=loaded.path)

    @overload
    def caption(
        self, images: ImageInput, *, n: Literal[1] = 1, batch_size: int = ..., **decoding: Any
    ) -> Caption: ...
    @overload
    def caption(
        self, images: ImageInput, *, n: int, batch_size: int = ..., **decoding: Any
    ) -> list[Caption]: ...
    @overload
    def caption(
        self, images: Sequence[ImageInput], *, n: Literal[1] = 1, batch_size: int = ..., **decoding: Any
    ) -> list[Caption]: ...
    @overload
    def caption(
        self, images: Sequence[ImageInput], *, n: int, batch_size: int = ..., **decoding: Any
    ) -> list[list[Caption]]: ...
    def caption(self, images: Any, *, n: int = 1, batch_size: int = 32, **decoding: Any) -> Any:
        """Caption an image or a list: paths, encoded bytes, PIL images or uint8 (height, width, 3) arrays.

        Args:
            images: one, or a list or tuple, captioned as its images one by one would be: in float32 the same captions,
                with scores equal within rounding; in lower precisions near ties may fall otherwise.
            n: captions of an image, best first; above 1 each image gives a list.
            batch_size: images that go through the model together.
            decoding: any setting of DecodingConfig (beams, max_tokens, ...), over the checkpoint's own.

        Raises:
            BadImageError: an image that cannot be read, named.
            ConfigError: a decoding setting or batch size that is unknown or out of range.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, and is {batch_size}")
        config = self.decoding(n=n, **decoding)
        single = not isinstance(images, (list, tuple))
        captions = list(self._caption_all([images] if single else images, config, batch_size=batch_size))
        shaped: list[Any] = [found[0] for found in captions] if n == 1 else captions
        return shaped[0] if single else shaped

    def decoding(self, **overrides: Any) -> DecodingConfig:
        """The checkpoint's decoding settings with some replaced, validated again.

        Raises:
            ConfigError: unknown or out of range.
        """
        return merge_decoding(self.manifest.decoding, overrides)

    def features(self, images: Sequence[Pixels]) -> Tensor:
        """Features of RGB images, uint8 (height, width, 3): float16 (batch, patches, vision_dim)."""
        return self.encoder.encode(np.stack([self.preprocess(image) for image in images]))

    def preprocess(self, image: Pixels) -> Pixels:
        """Encoder input of an RGB image: uint8 (3, height, width)."""
        return self.encoder.preprocess(image)

    def caption_features(self, features: Tensor, decoding: DecodingConfig) -> list[list[Caption]]:
        """`decoding.n` captions, best first, of each image's features (batch, patches, vision_dim)."""
        with torch.inference_mode():
            return self.model.caption(features, decoding)

    def encode(self, pixels: Pixels) -> Tensor:
        """Features of images that `preprocess` has readied: uint8 (batch, 3, height, width)."""
        return self.encoder.encode(pixels)

    def start(self, features: Tensor, decoding: DecodingConfig) -> CaptionGroup:
        """Begin the captions that `caption_features` gives, for a caller that steps them beside others.

        Raises:
            ValueError: settings beyond this model.
        """
        with torch.inference_mode():
            return self.model.start(features, decoding)

    def step(self, groups: Sequence[CaptionGroup]) -> None:
        """One token further with groups that this engine started, all together."""
        with torch.inference_mode():
            self.model.step(groups)

    def _caption_all(
        self, images: Sequence[ImageInput], decoding: DecodingConfig, *, batch_size: int
    ) -> Iterator[list[Caption]]:
        for begin in range(0, len(images), batch_size):
            chunk = images[begin : begin + batch_size]
            arrays = [read_image(image, index=begin + offset) for offset, image in enumerate(chunk)]
            yield from self.caption_features(self.features(arrays), decoding)


def check_encoder(encoder: VisionEncoder, trained: EncoderInfo) -> None:
    """Refuse, with a ConfigError, another encoder than the one a checkpoint was trained with."""
    if encoder.fingerprint != trained.fingerprint:
        raise ConfigError(
            f"the encoder at {encoder.config.name} is not the one this checkpoint was trained with "
            f"(fingerprint {encoder.fingerprint[:12]}, it was {trained.fingerprint[:12]}); give that folder"
        )


def merge_decoding(base: DecodingConfig, overrides: Mapping[str, Any]) -> DecodingConfig:
    """Decoding settings with some replaced, validated again.

    Raises:
        ConfigError: unknown, out of range, or at odds with the others.
    """
    try:
        return DecodingConfig.model_validate({**base.model_dump(), **overrides})
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error)) from None


def moved_encoder(config: EncoderConfig, moved_to: str) -> EncoderConfig:
    """An encoder's settings with the place where it lies now; "" leaves them alone."""
    return EncoderConfig.model_validate({**config.model_dump(), "name": moved_to or config.name})


def read_image(image: ImageInput, *, index: int = 0) -> Pixels:
    """Pixels of an image in any form that `CaptionEngine.caption` takes, through `vision.decode_image`.

    Raises:
        BadImageError: unreadable; names the file, or the image's place in the list.
    """
    try:
        return decode_image(encode_image(image))
    except FileNotFoundError:
        raise BadImageError(f"no such file: {image!s}") from None
    except (BadImageError, OSError) as error:
        where = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"
        raise BadImageError(f"{where}: {error}") from None
