"""The frozen image encoder: any Hugging Face vision model, from uint8 pixels to float16 features.

A model is a local folder or a hub id; of two-tower models (CLIP, SigLIP) only the image tower is loaded.
Only safetensors weights are read and no code from a model's repository is ever run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raycap import storage
from raycap.config import ConfigError, Frozen, cache_folder
from raycap.vision.preprocess import Preprocessor

# Part of the fingerprint: raise it when the same weights and settings would give other features.
FEATURES_VERSION = 1
MODEL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors*",
    "model-*.safetensors",
)
# Weights a checkpoint may lack: they only feed pooled outputs and heads, which raycap does not read.
UNUSED_WEIGHTS = ("pooler.", "head.", "vision_model.head.", "layernorm_after_pool.")
FLOAT16_MAX = 65504.0


class EncoderConfig(Frozen):
    """Which frozen image encoder, and what is taken from it."""

    name: str = Field(min_length=1)
    """Hub id (openai/clip-vit-base-patch32) or a folder with configs and safetensors weights."""
    revision: str = "main"
    """Branch, tag or commit on the hub; unused for a folder."""
    layer: int = -1
    """-1 is the last hidden state; another number takes that entry of the model's hidden states."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and computation; features are float16 always."""


def choose_device(requested: str = "auto") -> str:
    """The device to compute on: CUDA, else Apple's MPS, else the CPU, unless one is asked for.

    Raises:
        ConfigError: asked for a device this machine does not have, or an unknown one.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if requested == "auto":
        return next(name for name, there in present.items() if there)
    kind = requested.split(":")[0]
    if kind not in present:
        raise ConfigError(f"unknown device {requested!r}; known: auto, {', '.join(present)}")
    if not present[kind]:
        raise ConfigError(f"device {requested!r} is not on this machine; take 'auto' or 'cpu'")
    return requested


def find_model(name: str, revision: str = "main") -> Path:
    """Local folder of a model: `name` itself, or the hub's files, downloaded once and then cached.

    Raises:
        ConfigError: not there, not reachable, or without safetensors weights.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = download(name, revision)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no model folder: it has no config.json")
    if not weight_files(folder):
        raise ConfigError(
            f"{name} has no model.safetensors at revision {revision}, and raycap reads no pickled weights; "
            "take the hub's own conversion, e.g. encoder.revision refs/pr/15 for openai/clip-vit-base-patch32"
        )
    return folder


def download(name: str, revision: str, *, patterns: Sequence[str] = MODEL_FILES) -> Path:
    """Folder of a hub model's files, downloaded once and then cached.

    Raises:
        ConfigError: not there or not reachable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    looked = f"no encoder {name!r} (revision {revision}): no such folder, and"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError:
        raise ConfigError(f"{looked} it is no hub id (owner/model); give one or an existing folder") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ConfigError(
            f"{looked} it is neither in the hub's local cache nor is the hub reachable; go online once "
            "(HF_HUB_OFFLINE unset) or give the folder of a downloaded copy"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f"{looked} the hub answered: {str(error).strip().splitlines()[0]}") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder."""
    return sorted(folder.glob("model.safetensors")) or sorted(folder.glob("model-*.safetensors"))


def encoder_fingerprint(config: EncoderConfig) -> str:
    """Hash of all that features depend on (weights, model config, preprocessing, layer, precision), without
    loading the model.

    Raises:
        ConfigError: as VisionEncoder.
    """
    folder = find_model(config.name, config.revision)
    return _fingerprint(config, folder, Preprocessor.load(folder))


def _fingerprint(config: EncoderConfig, folder: Path, preprocess: Preprocessor) -> str:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings.pop("transformers_version", None)
    parts = {
        "version": FEATURES_VERSION,
        "weights": [_file_sha256(file.resolve()) for file in weight_files(folder)],
        "config": settings,
        "preprocess": preprocess.fingerprint,
        "layer": config.layer,
        "dtype": config.dtype,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _file_sha256(file: Path) -> str:
    """sha256 of a file, remembered between runs by path, size and time of change (CLIP-L takes seconds)."""
    status = file.stat()
    return _remembered_sha256(str(file), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _remembered_sha256(path: str, size: int, mtime_ns: int) -> str:
    key = hashlib.sha256(f"{path}\n{size}\n{mtime_ns}".encode()).hexdigest()
    cache = cache_folder() / "sha256" / key
    if cache.is_file() and len(known := cache.read_text().strip()) == 64:
        return known
    digest = storage.sha256(path)
    with suppress(OSError):  # where nothing can be kept, it is computed again
        storage.write_bytes(str(cache), digest.encode())
    return digest


class VisionEncoder:
    """A frozen encoder on one device.

    Attributes: config, device, preprocess, vision_dim, patches, fingerprint.

    Raises:
        ConfigError: no such model, weights missing, a layer it does not have, or no vision model.
    """

    def __init__(self, config: EncoderConfig, *, device: str) -> None:
        folder = find_model(config.name, config.revision)
        self.config = config
        self.device = choose_device(device)
        self.preprocess = Preprocessor.load(folder)
        self.fingerprint = _fingerprint(config, folder, self.preprocess)
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        # Convolutions are about twice as fast in this layout, on CPUs and GPUs; to transformers it means nothing.
        layout = torch.channels_last
        self.model = load_tower(folder, self.dtype).to(self.device, memory_format=layout)
        self._scale = torch.tensor(self.preprocess.scale, device=self.device)[:, None, None]  # (3, 1, 1)
        self._shift = torch.tensor(self.preprocess.shift, device=self.device)[:, None, None]
        probe = self.encode(np.zeros((1, 3, *self.preprocess.output_size), dtype=np.uint8))
        self.patches, self.vision_dim = int(probe.shape[1]), int(probe.shape[2])

    @torch.no_grad()
    def encode(self, pixels: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Preprocessed images uint8 (batch, 3, height, width) -> float16 (batch, patches, vision_dim)."""
        if isinstance(pixels, np.ndarray):  # a block of Ray's store is read-only, which torch cannot share
            pixels = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        normalised = pixels.to(self.device, non_blocking=True).float().mul_(self._scale).add_(self._shift)
        deep = self.config.layer != -1
        normalised = normalised.to(self.dtype).contiguous(memory_format=torch.channels_last)
        outputs = self.model(pixel_values=normalised, output_hidden_states=deep)
        states: Tensor = self._hidden_state(outputs) if deep else outputs.last_hidden_state
        if states.ndim == 4:  # convolutional: (batch, channels, height, width)
            states = states.flatten(2).transpose(1, 2)  # (batch, height * width, channels)
        return states.float().clamp_(-FLOAT16_MAX, FLOAT16_MAX).half().contiguous()

    def _hidden_state(self, outputs: Any) -> Tensor:
        states = outputs.hidden_states
        if not -len(states) <= self.config.layer < len(states):
            raise ConfigError(
                f"encoder.layer is {self.config.layer}, and {self.config.name} has hidden states 0 to "
                f"{len(states) - 1} (or -{len(states)} to -1)"
            )
        state: Tensor = states[self.config.layer]
        return state


def load_tower(folder: Path, dtype: torch.dtype) -> Any:
    """The image model of a folder, frozen: of a two-tower checkpoint the vision tower."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"the image model in {folder} cannot be loaded: {str(error).strip().splitlines()[0]}"
        ) from None
    lacking = sorted(name for name in report["missing_keys"] if not name.startswith(UNUSED_WEIGHTS))
    lacking += [str(mismatch) for mismatch in report["mismatched_keys"]]
    if lacking:
        raise ConfigError(
            f"the weights in {folder} do not fill a {type(model).__name__}: {len(lacking)} missing or of "
            f"another shape, first {lacking[0]}"
        )
    if model.main_input_name != "pixel_values":
        raise ConfigError(
            f"{folder} holds a {type(model).__name__}, which takes no images; give a vision model"
        )
    return model.eval().requires_grad_(False)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar, and no report of the text tower's weights being unused."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
