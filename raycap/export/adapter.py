"""A checkpoint without what only a resume needs: a folder that raycap loads, and small enough to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raycap import storage
from raycap.checkpoint import CheckpointError, Manifest
from raycap.checkpoint.manifest import MANIFEST, TRAINING_TENSORS, TRAINING_VALUES, digest_of
from raycap.engine import CaptionEngine
from raycap.export.verify import draw_probes


def copy_adapter(source: str, manifest: Manifest, folder: Path, *, encoder: str, language_model: str) -> None:
    """Copy a verified checkpoint's files but its training state, with a manifest that says so.

    `encoder` and `language_model`, where given, are written there as the places where those lie.
    """
    content: dict[str, Any] = manifest.model_dump(mode="json", exclude={"digest"})
    for name in (TRAINING_TENSORS, TRAINING_VALUES):
        content["files"].pop(name, None)
    for name in content["files"]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(storage.join(source, name)))
    if encoder:
        content["encoder"]["config"]["name"] = encoder
    if language_model:
        content["model"]["language_model"] = language_model
    storage.write_json(str(folder / MANIFEST), {**content, "digest": digest_of(content)})


def verify_adapter(folder: Path, engine: CaptionEngine) -> None:
    """Load the copy and caption the probe pictures with both.

    Raises:
        CheckpointError: it does not load, or its captions are not those of the checkpoint.
    """
    copied = CaptionEngine.load(str(folder), device="cpu")
    pictures = draw_probes(engine.encoder.preprocess.output_size[0])
    decoding = engine.manifest.decoding
    features = engine.features(pictures)
    if copied.caption_features(features, decoding) != engine.caption_features(features, decoding):
        raise CheckpointError(f"the copy of {engine.path} does not say what it says, so it was not written")
