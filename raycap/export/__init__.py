"""`raycap export`: a checkpoint for people who do not have raycap, or a small one for people who do.

Written aside, verified there against the checkpoint, and only then put in its place.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycap import checkpoint as checkpoints
from raycap import storage
from raycap.config import ConfigError, Frozen
from raycap.engine import CaptionEngine
from raycap.export.adapter import copy_adapter, verify_adapter
from raycap.export.card import write_card
from raycap.export.record import (
    CARD,
    RECORD,
    Form,
    Record,
    all_names_in,
    check_files,
    read_record,
    write_record,
)

__all__ = ["CARD", "RECORD", "ExportConfig", "Form", "Record", "export", "read_record", "verify_export"]


class ExportConfig(Frozen):
    """What to make of a checkpoint, and where."""

    output: str
    """Folder to write; an earlier export there is replaced."""
    form: Form = "transformers"
    """transformers: all weights in a plain VisionEncoderDecoderModel; adapter: what was trained, for raycap."""
    encoder: str = ""
    """Where the image encoder lies now, if it has moved since training; an adapter's manifest says so too."""
    language_model: str = ""
    """Where the language model lies now, if it has moved since training; an adapter's manifest says so too."""


def export(checkpoint: str, config: ExportConfig) -> str:
    """Export a checkpoint; returns the folder.

    Raises:
        CheckpointError: absent, damaged, or the export does not say what the checkpoint says.
        ConfigError: the output is in use, or the family or the encoder has no such form.
    """
    output = check_output(config.output)
    engine = CaptionEngine.load(
        checkpoint, device="cpu", encoder=config.encoder, language_model=config.language_model
    )
    with _aside(output) as folder:
        if config.form == "adapter":
            record, feature_map = _write_adapter(engine, folder, config), False
        else:
            record, feature_map = _write_plain(engine, folder)
        record = record.model_copy(update={"name": output.name})
        write_card(folder, record, engine.manifest, feature_map=feature_map)
        write_record(folder, record)
        storage.publish_folder(folder, str(output), last=RECORD)
    return str(output)


def verify_export(folder: Path) -> Record:
    """Hold an exported folder against its record: every file, and what the models in it say.

    Raises:
        CheckpointError: the first thing that is not as it was exported.
    """
    record = read_record(folder)
    check_files(folder, record)
    if record.form == "adapter":
        checkpoints.verify(str(folder))
    else:
        from raycap.export.verify import verify_alone

        verify_alone(folder, record)
    return record


def check_output(place: str) -> Path:
    """The folder to write, absolute and without links (the export takes the place of what a link means).

    Raises:
        CheckpointError: an earlier export lies there whose record is damaged.
        ConfigError: no local folder, or one that holds anything but an earlier export.
    """
    if "://" in place:
        raise ConfigError(f"--output is a local folder, not {place}; copy it from there, or take raycap push")
    output = Path(place).expanduser().resolve()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; name a folder as --output")
    present = all_names_in(output)
    earlier = {RECORD, CARD, *read_record(output).files} if RECORD in present else set()
    if others := [name for name in present if name not in earlier]:
        raise ConfigError(
            f"{output} holds files that are no export ({others[0]}); take them away, or name another folder as "
            "--output"
        )
    return output


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """A folder beside the output, gone in the end unless it was renamed."""
    folder = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.tmp")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_adapter(engine: CaptionEngine, folder: Path, config: ExportConfig) -> Record:
    copy_adapter(
        engine.path, engine.manifest, folder, encoder=config.encoder, language_model=config.language_model
    )
    verify_adapter(folder, engine)
    return Record(form="adapter", checkpoint=engine.manifest.digest)


def _write_plain(engine: CaptionEngine, folder: Path) -> tuple[Record, bool]:
    """Write and verify the plain form; what it says of itself, and whether its encoder gives feature maps."""
    from raycap.export.plain import PlainCaptioner
    from raycap.export.verify import draw_probes, verify_against
    from raycap.export.writing import write_plain

    assembled = write_plain(engine, folder)
    layer = engine.encoder.config.layer if assembled.takes == "features" else -1
    side = engine.encoder.preprocess.output_size[0]
    plain = PlainCaptioner(folder, takes=assembled.takes, layer=layer)
    said, equal = verify_against(plain, engine, draw_probes(side))
    record = Record(
        form="transformers",
        checkpoint=engine.manifest.digest,
        takes=assembled.takes,
        layer=layer,
        side=side,
        said=said,
        equal=equal,
    )
    return record, plain.feature_map
