"""METEOR's word lists in the form scoring reads, parsed once and kept in a file under the user's cache directory.

Phrases are paths in a trie of words: a node is a phrase, node 0 the empty one, and the edges, sorted as
parent << 32 | word, number the nodes from 1. Parsing takes a quarter of a minute, reading the kept file well under a
second. Knows nothing of captions.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import itertools
import logging
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raycap.config import cache_folder
from raycap.metrics.meteor.sources import MeteorUnavailableError, Sources

Ints = npt.NDArray[np.int64]
_FORMAT = 1  # of the kept file; a change here leaves older files unread
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WordLists:
    """METEOR's English lists as arrays; the texts are words joined by line ends."""

    function_words: str
    prefixes: str  # words after which a full stop belongs to the word
    number_prefixes: str  # likewise, before a number only
    synset_words: str
    synset_starts: npt.NDArray[np.int32]  # (words + 1,) where each word's synonym sets begin
    synsets: npt.NDArray[np.int32]
    inflected: str  # irregular forms
    bases: str  # the base of each
    words: str  # of the paraphrases; a word's number is its place
    edges: npt.NDArray[np.uint64]  # (nodes,) parent << 32 | word, sorted
    paraphrase_starts: npt.NDArray[np.int32]  # (nodes + 2,) where each node's paraphrases begin
    paraphrases: npt.NDArray[np.int32]  # nodes, in the order of the table


def load(sources: Sources) -> WordLists:
    """The word lists of some files, parsed or as kept when these very files were parsed before.

    Raises:
        MeteorUnavailableError: the files are not METEOR's.
    """
    kept = cache_folder() / f"meteor-{_FORMAT}-{sources.digest()}.npz"
    with _alone(kept.parent):
        lists = _kept(kept)
        if lists is not None:
            return lists
        _log.warning("reading METEOR's word lists, once: about a quarter of a minute")
        lists = parse(sources)
        from raycap import storage  # loads PyArrow

        try:
            storage.write_bytes(str(kept), _pack(lists))
        except OSError as error:
            _log.warning(
                "METEOR's word lists cannot be kept in %s (%s): every run parses them", kept.parent, error
            )
    return lists


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time parse, so that workers that start together read what the first has kept."""
    with ExitStack() as stack:
        with suppress(OSError):  # where nothing can be kept or locked, each parses for itself
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / "meteor.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept(path: Path) -> WordLists | None:
    """What an earlier run has kept, if it can be read."""
    if not path.is_file():
        return None
    try:
        return _unpack(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s cannot be read (%s) and is written anew", path, error)
        return None


def _pack(lists: WordLists) -> bytes:
    packed = io.BytesIO()
    arrays = {
        name: np.frombuffer(value.encode(), dtype=np.uint8) if isinstance(value, str) else value
        for name, value in vars(lists).items()
    }
    np.savez(packed, allow_pickle=False, **arrays)
    return packed.getvalue()


def _unpack(path: Path) -> WordLists:
    texts = {name for name, kind in WordLists.__annotations__.items() if kind == "str"}
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in WordLists.__annotations__}
    return WordLists(
        **{name: value.tobytes().decode() if name in texts else value for name, value in arrays.items()}
    )


def parse(sources: Sources) -> WordLists:
    """The word lists from METEOR's own files.

    Raises:
        MeteorUnavailableError: the files are not METEOR's.
    """
    lists = sources.lists()
    synset_words, synset_starts, synsets = _synsets(_lines(lists["synsets"]))
    inflected, bases = _exceptions(_lines(lists["exceptions"]))
    prefixes, number_prefixes = _prefixes(_lines(lists["prefixes"]))
    try:
        with gzip.open(sources.paraphrases) as packed, io.BufferedReader(packed, 1 << 20) as stream:
            numbers, sides = _table(stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise MeteorUnavailableError(f"{sources.paraphrases} is not METEOR's paraphrases: {error}") from None
    words, edges, node_of = _trie(numbers)
    del numbers  # a third of a gigabyte
    starts, paraphrases = _paraphrases(node_of[sides], len(edges))
    return WordLists(
        function_words="\n".join(_lines(lists["function words"])),
        prefixes=prefixes,
        number_prefixes=number_prefixes,
        synset_words=synset_words,
        synset_starts=synset_starts,
        synsets=synsets,
        inflected=inflected,
        bases=bases,
        words=words,
        edges=edges,
        paraphrase_starts=starts,
        paraphrases=paraphrases,
    )


def _lines(content: bytes) -> list[str]:
    return content.decode().splitlines()


def _synsets(lines: list[str]) -> tuple[str, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Words and the numbers of their synonym sets, from lines that alternate between the two."""
    numbers = [line.split() for line in lines[1::2]]
    starts = np.cumsum([0, *map(len, numbers)], dtype=np.int32)
    flat = np.fromiter(map(int, itertools.chain.from_iterable(numbers)), dtype=np.int32)
    return "\n".join(lines[: 2 * len(numbers) : 2]), starts, flat


def _exceptions(lines: list[str]) -> tuple[str, str]:
    """Irregular forms and the base of each, from lines that alternate between a base and its forms."""
    pairs = [
        (form, base) for base, forms in zip(lines[::2], lines[1::2], strict=False) for form in forms.split()
    ]
    return "\n".join(form for form, _ in pairs), "\n".join(base for _, base in pairs)


def _prefixes(lines: list[str]) -> tuple[str, str]:
    kinds: dict[str, bool] = {}
    for fields in map(str.split, lines):
        if fields and not fields[0].startswith("#"):
            kinds[fields[0]] = fields[1:2] == ["#NUMERIC_ONLY#"]
    always = [word for word, numbers_only in kinds.items() if not numbers_only]
    return "\n".join(always), "\n".join(word for word, numbers_only in kinds.items() if numbers_only)


def _table(stream: Iterable[bytes]) -> tuple[dict[bytes, int], npt.NDArray[np.int32]]:
    """Numbers of all phrases, and the phrase and paraphrase of each entry, (entries, 2).

    An entry is three lines: a probability, which METEOR does not use, a phrase, a paraphrase.
    """
    numbers: dict[bytes, int] = {}
    sides = array("i")
    lines = iter(stream)
    for _, phrase, paraphrase in zip(lines, lines, lines, strict=False):
        sides.append(numbers.setdefault(phrase, len(numbers)))
        sides.append(numbers.setdefault(paraphrase, len(numbers)))
    return numbers, np.frombuffer(sides, dtype=np.int32).reshape(-1, 2)


def _trie(phrases: Iterable[bytes]) -> tuple[str, npt.NDArray[np.uint64], Ints]:
    """Words, edges, and the node of each phrase."""
    vocabulary: dict[bytes, int] = {}
    flat, sizes = array("i"), array("i")
    for phrase in phrases:
        words = phrase.split()
        sizes.append(len(words))
        flat.extend(vocabulary.setdefault(word, len(vocabulary)) for word in words)
    lengths, word = np.array(sizes, dtype=np.int64), np.array(flat, dtype=np.uint64)
    first = np.cumsum(lengths) - lengths
    node = np.zeros(len(lengths), dtype=np.int64)
    edges, num_nodes = [np.zeros(0, dtype=np.uint64)], 0
    for depth in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > depth)
        key = node[longer].astype(np.uint64) << np.uint64(32) | word[first[longer] + depth]
        level, place = np.unique(key, return_inverse=True)
        node[longer] = num_nodes + 1 + place
        edges.append(level)
        num_nodes += len(level)
    return b"\n".join(vocabulary).decode(errors="replace"), np.concatenate(edges), node


def _paraphrases(nodes: Ints, num_nodes: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Where each node's paraphrases begin, and the paraphrases, in the table's order."""
    order = np.argsort(nodes[:, 0], kind="stable")
    starts = np.searchsorted(nodes[order, 0], np.arange(num_nodes + 2))
    return starts.astype(np.int32), nodes[order, 1].astype(np.int32)
