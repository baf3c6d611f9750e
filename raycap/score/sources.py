"""Sets of captions beside the scored ones: a training set's, from prepared rows or a file, and document frequencies."""

from __future__ import annotations

from pathlib import Path

from raycap.metrics import frequency
from raycap.metrics.ngrams import DocumentFrequency
from raycap.score.files import SUFFIXES, ScoreInputError, read_content
from raycap.score.reading import ImageId, read_references


def read_captions(path: str, *, split: str = "train") -> dict[ImageId, list[str]]:
    """Captions by image: of a split of prepared rows, where `path` is such a folder, else of a file of captions.

    Raises:
        ConfigError: no such split.
        ScoreInputError: not readable, or without captions.
    """
    if path.lower().endswith(SUFFIXES):
        return read_references(path).captions
    from raycap.data.splits import read_references as read_split  # loads PyArrow

    return {found.image_id: found.captions for found in read_split(path, split).values()}


def write_frequency(source: str, *, output: str, split: str = "train") -> str:
    """Count the document frequencies of a set of captions and keep them; returns the file.

    Raises:
        ConfigError, ScoreInputError: as `read_captions`.
    """
    from raycap import storage

    captions = read_captions(source, split=split)
    is_file = source.lower().endswith(SUFFIXES)
    named = source if is_file else f"{source} ({split})"
    counted = frequency.count(list(captions.values()), ids=list(captions), source=named)
    storage.write_json(output, frequency.to_plain(counted))
    return output


def read_frequency(path: str) -> DocumentFrequency:
    """What `write_frequency` wrote.

    Raises:
        ScoreInputError: no such file, or something else.
    """
    if Path(path).suffix != ".json":
        raise ScoreInputError(f"{path}: document frequencies are kept in .json files")
    content = read_content(path)
    try:
        return frequency.from_plain(content)
    except ValueError as error:
        raise ScoreInputError(f"{path}: {error}") from None
