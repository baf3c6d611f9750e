"""`raycap caption`: photos and folders of photos, one line a photo on stdout.

A photo that cannot be read costs that photo only: it is named on stderr, and the exit code says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from raycap.config import ConfigError
from raycap.engine import CaptionEngine, EngineOptions, GivenDecoding, Pixels, read_image
from raycap.schema import Caption
from raycap.vision import BadImageError

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class CaptionFilesConfig(EngineOptions):
    """With which checkpoint to caption, and how."""

    checkpoint: str
    """Run folder, RUN/best-metric, RUN/best-loss, RUN/last, or a checkpoint folder."""
    # as plain flags (--beams 5) whose defaults are the checkpoint's and not these
    decoding: Annotated[GivenDecoding, Parameter(name="*", show_default=False)] = GivenDecoding()
    """Only the settings given here replace the checkpoint's own."""
    json_lines: bool = False
    """Print one JSON object a photo, with all captions and their scores."""
    batch_size: int = Field(default=16, ge=1)
    """Photos that go through the model together."""


def caption_files(photos: Sequence[str], config: CaptionFilesConfig) -> int:
    """Print the captions of image files and of all images below folders.

    Returns:
        The exit code: 1 where a photo could not be read.

    Raises:
        CheckpointError: absent or damaged.
        ConfigError: a setting that does not fit the checkpoint or this machine, or no photo named.
    """
    if not photos:
        raise ConfigError("name at least one photo or folder to caption")
    engine = CaptionEngine.load(config.checkpoint, **config.of_engine())
    return print_captions(engine, photos, config)


def print_captions(engine: CaptionEngine, photos: Sequence[str], config: CaptionFilesConfig) -> int:
    """`caption_files` with an engine that is already there."""
    decoding = engine.decoding(**config.decoding.model_dump(exclude_unset=True))
    paths, unreadable = find_photos(photos)
    with _progress(disable=len(paths) <= config.batch_size) as progress:
        task = progress.add_task("captioning", total=len(paths))
        for begin in range(0, len(paths), config.batch_size):
            chunk = paths[begin : begin + config.batch_size]
            images, problems = _read(chunk)
            unreadable += problems
            pixels = [image for _, image in images]
            found = engine.caption_features(engine.features(pixels), decoding) if images else []
            for (path, _), captions in zip(images, found, strict=True):
                sys.stdout.write(format_line(path, captions, json_lines=config.json_lines) + "\n")
            sys.stdout.flush()
            progress.advance(task, len(chunk))
    for problem in unreadable:
        sys.stderr.write(f"raycap: {problem}\n")
    return 1 if unreadable else 0


def find_photos(places: Iterable[str]) -> tuple[list[str], list[str]]:
    """Image files named or found below folders, in order; and a sentence for each place without any."""
    paths: list[str] = []
    problems: list[str] = []
    for place in places:
        folder = Path(place).expanduser()
        if not folder.is_dir():
            paths.append(place)
            continue
        found = sorted(str(path) for path in _images_below(folder))
        paths += found
        if not found:
            problems.append(f"{place}: no image in this folder (looked for {', '.join(sorted(SUFFIXES))})")
    return paths, problems


def format_line(path: str, captions: Sequence[Caption], *, json_lines: bool) -> str:
    """One photo's line: path, tab, best caption; or a JSON object with all of them."""
    if not json_lines:
        return f"{path}\t{' '.join(captions[0].text.split())}"
    found = [{"caption": caption.text, "score": round(caption.score, 6)} for caption in captions]
    return json.dumps({"image": path, "captions": found}, ensure_ascii=False)


def _progress(*, disable: bool) -> Progress:
    # While a bar is shown rich sends stdout to the bar's console: right on a terminal, wrong into a file.
    redirect = sys.stdout.isatty()
    screen = Console(stderr=True)
    return Progress(console=screen, disable=disable, redirect_stdout=redirect, transient=True)


def _images_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _read(paths: list[str]) -> tuple[list[tuple[str, Pixels]], list[str]]:
    images: list[tuple[str, Pixels]] = []
    problems = []
    for path in paths:
        try:
            images.append((path, read_image(path)))
        except BadImageError as error:
            problems.append(str(error))
    return images, problems
