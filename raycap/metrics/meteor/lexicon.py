"""What METEOR's matchers ask of words and captions: stems, synonym sets, phrases that have or are paraphrases.

A word is worked out once and kept; the phrases of all captions of a call are found together, a word of length at a
time. Knows nothing of pairs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from raycap.metrics.meteor.lists import Ints, WordLists
from raycap.metrics.meteor.normalize import normalize
from raycap.metrics.meteor.stemmer import stem

# Endings that lead from a word to one that WordNet may list, in the order they are tried.
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
    ("er", ""),
    ("est", ""),
    ("er", "e"),
    ("est", "e"),
)


@dataclass(frozen=True, slots=True)
class Word:
    """What matchers ask of a word; words and stems are the same where their numbers are."""

    number: int
    stem: int
    synsets: frozenset[int]
    is_function: bool
    in_paraphrases: int  # its number there, or -1


@dataclass(slots=True)
class Caption:
    """A caption's words, where each stands, and its phrases."""

    words: list[Word]
    numbers: list[int]
    function_words: int  # a bit for each position
    phrases: list[tuple[int, int, int]]  # (start, length, node) of those with paraphrases, in order
    targets: dict[int, tuple[int, list[int]]]  # by node: length and starts of those that are paraphrases
    by_number: dict[int, list[int]] = field(default_factory=dict)
    by_stem: dict[int, list[int]] = field(default_factory=dict)
    synsets: frozenset[int] = frozenset()  # of all words

    def index(self) -> None:
        """Note where each word and stem stands; a caption that others are looked up in needs it."""
        if self.by_number:
            return
        for position, word in enumerate(self.words):
            self.by_number.setdefault(word.number, []).append(position)
            self.by_stem.setdefault(word.stem, []).append(position)
        self.synsets = self.synsets.union(*(word.synsets for word in self.words))


class Lexicon:
    """Word lists ready for look-ups."""

    def __init__(self, lists: WordLists) -> None:
        self._lists = lists
        self._prefixes = frozenset(lists.prefixes.split("\n"))
        self._number_prefixes = frozenset(lists.number_prefixes.split("\n"))
        self._function_words = frozenset(lists.function_words.split("\n"))
        self._synset_row = {word: row for row, word in enumerate(lists.synset_words.split("\n"))}
        self._bases: dict[str, list[str]] = {}
        for form, base in zip(lists.inflected.split("\n"), lists.bases.split("\n"), strict=True):
            self._bases.setdefault(form, []).append(base)
        self._paraphrase_word = {word: number for number, word in enumerate(lists.words.split("\n"))}
        num_nodes = len(lists.edges) + 1
        self._has_paraphrases = np.diff(lists.paraphrase_starts) > 0  # (nodes,)
        self._is_paraphrase = np.zeros(num_nodes, dtype=bool)
        self._is_paraphrase[lists.paraphrases] = True
        self._words: dict[str, Word] = {}
        self._paraphrases: dict[int, dict[int, int]] = {}

    def paraphrases(self, node: int) -> dict[int, int]:
        """Paraphrases of a phrase and the place of each in the table's order."""
        known = self._paraphrases.get(node)
        if known is None:
            first, last = self._lists.paraphrase_starts[node : node + 2].tolist()
            nodes = self._lists.paraphrases[first:last].tolist()
            known = self._paraphrases[node] = {other: place for place, other in enumerate(nodes)}
        return known

    def captions(self, texts: Iterable[str]) -> dict[str, Caption]:
        """Captions by their text: PTB tokens joined by spaces."""
        captions: dict[str, Caption] = {}
        for text in texts:
            if text not in captions:
                captions[text] = self._caption(normalize(text, self._prefixes, self._number_prefixes))
        self._find_phrases(list(captions.values()))
        return captions

    def _caption(self, tokens: Sequence[str]) -> Caption:
        words = [self._words.get(token) or self._word(token) for token in tokens]
        bits = sum(1 << position for position, word in enumerate(words) if word.is_function)
        return Caption(words, [word.number for word in words], bits, [], {})

    def _word(self, token: str) -> Word:
        word = self._words[token] = Word(
            number=string_hash(token),
            stem=string_hash(stem(token)),
            synsets=frozenset(self._synsets(token)) | self._base_synsets(token),
            is_function=token in self._function_words,
            in_paraphrases=self._paraphrase_word.get(token, -1),
        )
        return word

    def _synsets(self, word: str) -> list[int]:
        row = self._synset_row.get(word)
        if row is None:
            return []
        first, last = self._lists.synset_starts[row : row + 2].tolist()
        return list(self._lists.synsets[first:last].tolist())

    def _base_synsets(self, word: str) -> frozenset[int]:
        """Synonym sets of what a word is an inflected form of, by WordNet's exceptions or else by its ending."""
        bases = self._bases.get(word)
        if bases is None:
            bases = [self._base(word)]
        return frozenset(synset for base in bases for synset in self._synsets(base))

    def _base(self, word: str) -> str:
        if len(word) <= 2 or word.endswith("ss"):
            return word
        for ending, replacement in _ENDINGS:
            if word.endswith(ending):
                base = word[: -len(ending)] + replacement
                if base in self._synset_row:
                    return base
        return ""

    def _find_phrases(self, captions: Sequence[Caption]) -> None:
        """Fill in the captions' phrases."""
        flat = [number for caption in captions for number in (*(w.in_paraphrases for w in caption.words), -1)]
        sizes = np.array([len(caption.words) + 1 for caption in captions], dtype=np.int64)
        first = np.cumsum(sizes) - sizes
        position, length, node = self._walk(np.array(flat, dtype=np.int64))
        owner = np.repeat(np.arange(len(captions)), sizes)[position]
        start = position - first[owner]
        rows, num = (start, length, node), len(captions)
        with_paraphrases = _by_owner(owner, rows, self._has_paraphrases[node], num)
        paraphrases = _by_owner(owner, rows, self._is_paraphrase[node], num)
        for caption, phrases, targets in zip(captions, with_paraphrases, paraphrases, strict=True):
            caption.phrases = phrases
            for place, size, target in targets:
                caption.targets.setdefault(target, (size, []))[1].append(place)

    def _walk(self, numbers: Ints) -> tuple[Ints, Ints, Ints]:
        """Position, length and node of every path of the trie in a row of words, by position and length."""
        edges = self._lists.edges
        numbers = np.append(numbers, -1)
        position = np.flatnonzero(numbers >= 0)
        node = np.zeros(len(position), dtype=np.int64)
        found = [(position[:0], position[:0], node[:0])]
        length = 0
        while len(position) and len(edges):
            word = numbers[position + length]
            key = (node << 32 | np.maximum(word, 0)).astype(np.uint64)
            place = np.minimum(np.searchsorted(edges, key), len(edges) - 1)
            hit = (edges[place] == key) & (word >= 0)
            position, node, length = position[hit], place[hit] + 1, length + 1
            found.append((position, np.full(len(position), length), node))
        every = [np.concatenate(column) for column in zip(*found, strict=True)]
        order = np.lexsort((every[1], every[0]))
        return every[0][order], every[1][order], every[2][order]


def _by_owner(
    owner: Ints, columns: Sequence[Ints], chosen: npt.NDArray[np.bool_], num: int
) -> Iterator[list[tuple[int, int, int]]]:
    """The chosen rows of each of a number of owners."""
    rows = list(zip(*(column[chosen].tolist() for column in columns), strict=True))
    ends = np.cumsum(np.bincount(owner[chosen], minlength=num)).tolist()
    for before, end in zip([0, *ends[:-1]], ends, strict=True):
        yield rows[before:end]


def string_hash(text: str) -> int:
    """Java's 32-bit hash of a string: the reference compares words by it, so two that share one are the same."""
    number, units = 0, text.encode("utf-16-le", "surrogatepass")
    for unit in struct.unpack(f"<{len(units) // 2}H", units):
        number = (31 * number + unit) & 0xFFFFFFFF
    return number
