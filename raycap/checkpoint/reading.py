"""Reading a checkpoint back: verified, then put into a model built from its manifest or one already built."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch

from raycap import storage
from raycap.checkpoint.manifest import (
    TOKENIZER,
    TRAINING_TENSORS,
    TRAINING_VALUES,
    VOCABULARY,
    WEIGHTS,
    CheckpointError,
    Manifest,
    read_manifest,
    same_base,
    sample_base,
    verify,
)
from raycap.checkpoint.run import resolve
from raycap.checkpoint.writing import TrainingState
from raycap.config import ConfigError
from raycap.models import CaptionModel, FamilyConfig, select_family
from raycap.text import CaptionTokenizer

LARGEST_HEAD = 100_000_000  # bytes, as safetensors itself allows


@dataclass(frozen=True)
class Loaded:
    """A checkpoint read back: the model on the CPU in eval mode, its weights in place.

    `vocabulary` is empty where the checkpoint does not tell which tokens its training captions use.
    """

    path: str
    manifest: Manifest
    config: FamilyConfig
    model: CaptionModel
    tokenizer: CaptionTokenizer
    vocabulary: tuple[int, ...]
    training: TrainingState | None


def load(path: str, *, language_model: str = "", training: bool = False) -> Loaded:
    """Verify and read a checkpoint, building its model.

    Args:
        path: anything `resolve` takes.
        language_model: where the frozen language model lies now, if it has moved since training.
        training: read the training state too.

    Raises:
        CheckpointError: absent or damaged, or another language model than the one trained with.
        ConfigError: an unknown family, or a base model that cannot be found.
    """
    folder = resolve(path)
    manifest = verify(folder)
    config = _model_config(manifest, language_model=language_model)
    with _local_copy(folder, manifest.files) as local:
        tokenizer = CaptionTokenizer.load(str(local / TOKENIZER))
        model = config.build(tokenizer=tokenizer, vision_dim=manifest.encoder.vision_dim)
        _fill(model, local, manifest)
        vocabulary = _read_vocabulary(local, manifest)
        state = _read_training(local, manifest) if training else None
    return Loaded(folder, manifest, config, model.eval(), tokenizer, vocabulary, state)


def restore(folder: str, model: CaptionModel) -> tuple[Manifest, TrainingState | None]:
    """Verify a checkpoint and put its weights into a model that is already built, as a resumed run does.

    Raises:
        CheckpointError: damaged, or its weights do not fit the model.
    """
    manifest = verify(folder)
    with _local_copy(folder, manifest.files) as local:
        _fill(model, local, manifest)
        return manifest, _read_training(local, manifest)


def read_training(folder: str) -> TrainingState | None:
    """Verify a checkpoint and read its training state alone, without building a model.

    Raises:
        CheckpointError: damaged.
    """
    manifest = verify(folder)
    with _local_copy(folder, manifest.files) as local:
        return _read_training(local, manifest)


def count_weights(folder: str) -> int:
    """How many numbers a checkpoint keeps, its trained weights, by the head of their file alone.

    Raises:
        CheckpointError: the file is absent or damaged.
    """
    path = storage.join(folder, WEIGHTS)
    fs, inner = storage.filesystem(path)
    try:
        with fs.open_input_stream(inner) as stream:  # 8 bytes of length, then JSON (safetensors' format)
            length = int.from_bytes(stream.read(8), "little")
            content = stream.read(length if length < LARGEST_HEAD else 0)
        head = json.loads(content if len(content) == length else b"")
        return sum(math.prod(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"damaged checkpoint: {path} is missing or no safetensors file") from None


def read_tokens(path: str) -> tuple[CaptionTokenizer, tuple[int, ...]]:
    """The tokenizer of a checkpoint, and the token ids that its training captions use (empty where unknown).

    Raises:
        CheckpointError: nothing there, or a damaged manifest.
    """
    folder = resolve(path)
    manifest = read_manifest(folder)
    names = [name for name in manifest.files if name == VOCABULARY or name.startswith(f"{TOKENIZER}/")]
    with _local_copy(folder, names) as local:
        return CaptionTokenizer.load(str(local / TOKENIZER)), _read_vocabulary(local, manifest)


def _model_config(manifest: Manifest, *, language_model: str) -> FamilyConfig:
    if not language_model:
        return select_family(manifest.model)
    if "language_model" not in manifest.model:
        raise ConfigError(
            f"a {manifest.family} checkpoint has no language model to replace; leave language_model out"
        )
    return select_family({**manifest.model, "language_model": language_model})


def _fill(model: CaptionModel, local: Path, manifest: Manifest) -> None:
    try:
        model.load_saved_state(safetensors.torch.load_file(local / WEIGHTS))
    except (ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{local / WEIGHTS} does not fit the {manifest.family} model: {error}"
        ) from None
    if not same_base(sample_base(model), manifest.base):
        raise CheckpointError(
            f"the base model {manifest.model.get('language_model', '')} is not the one this checkpoint was "
            "trained on; give the folder of that one as language_model"
        )


def _read_vocabulary(local: Path, manifest: Manifest) -> tuple[int, ...]:
    if VOCABULARY not in manifest.files:
        return ()
    return tuple(json.loads((local / VOCABULARY).read_text(encoding="utf-8")))


def _read_training(local: Path, manifest: Manifest) -> TrainingState | None:
    if TRAINING_TENSORS not in manifest.files:
        return None
    values = json.loads((local / TRAINING_VALUES).read_text(encoding="utf-8"))
    return TrainingState(safetensors.torch.load_file(local / TRAINING_TENSORS), values)


@contextmanager
def _local_copy(folder: str, names: Iterable[str]) -> Iterator[Path]:
    """The folder itself where it is local, else a download of these files for as long as they are read."""
    if storage.is_local(folder):
        yield Path(storage.filesystem(folder)[1])
        return
    with tempfile.TemporaryDirectory(prefix="raycap-") as temporary:
        for name in names:
            target = Path(temporary, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(storage.join(folder, name)))
        yield Path(temporary)
