"""Penn Treebank tokenization as COCO caption evaluation applies it, without Java.

The reference writes all captions into one file, runs Stanford's PTBTokenizer over it line by line, lowercases,
and drops seventeen punctuation tokens. Its quirks are kept: brackets leak as `-lrb-`, and a caption's last token
can depend on the caption below it ("letter B." before a line that starts with "The"). Knows nothing of metrics.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from raycap.metrics.ptb_characters import CURRENCY, stand_ins
from raycap.metrics.ptb_rules import BLANKS, NUMBER_ABBREVIATIONS, RULED_WORDS, longest

VERSION = "PTB (Stanford CoreNLP 3.4.1, as COCO applies it)"
DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", ""])
_CACHE_LIMIT = 200_000  # words kept; a caption vocabulary is far smaller

# Chunks between spaces whose tokens depend on nothing around them.
_NUMBERED = "|".join(NUMBER_ABBREVIATIONS)
_CLOSED = re.compile(
    rf"(?!(?i:{_NUMBERED})\.)\"?[A-Za-z]{{2,}}(?:['-][A-Za-z]+)*"
    r"(?:(?:[,!?]|(?<=[A-Za-z]{2}|'s)\.)?\"?|\"[.,!?])|[AaI]|&|,|-"
)
_CHUNK = re.compile(r"[^ ]+")

_OUTER_BRACKETS = {"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ROUND_BRACKETS = {"(": "-lrb-", ")": "-rrb-"}
_ENTITIES = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": "",
    "&quot;": "''",
    "&mdash;": "--",
    "&apos;": "'",
}
_WHOLE = {
    **_OUTER_BRACKETS,
    "\xa2": "cents",
    "\xa3": "#",
    "\x80": "$",
    CURRENCY: "$",
    "\u20a0": "$",
    "\u20ac": "$",
    "\xbc": "1/4",
    "\xbd": "1/2",
    "\xbe": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "\u2026": "...",
    '"': "''",
    **dict.fromkeys("\x96\x97\u2013\u2014\u2015", "--"),
}
_QUOTES = {
    **dict.fromkeys("\x91\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\x92\u2019\u203a", "'"),
    **dict.fromkeys("\x93\xab\u201c", "``"),
    **dict.fromkeys("\x94\xbb\u201d", "''"),
}
_QUOTE_RUN = re.compile("[\u2018-\u201f\x91-\x94\xab\xbb\u2039\u203a`]{1,2}")
_CONTRACTION = re.compile("(?:n['\u2019\x92]t|['\u2019\x92](?:[msd]|re|ve|ll))")


def tokenize(captions: Iterable[str], *, following: Sequence[str] | None = None) -> list[list[str]]:
    """Tokens of each caption, lowercased, punctuation dropped.

    Args:
        captions: as in the reference's file, in its order.
        following: for each caption the one below it, where `captions` is a part of a larger list (`neighbours`
            makes it); by default the next of `captions`.

    Raises:
        ValueError: a caption that is not a string.
    """
    lines = [_line(caption, index) for index, caption in enumerate(captions)]
    following = neighbours(lines) if following is None else following
    below = [_line(line, index) for index, line in enumerate(following)]
    if len(below) != len(lines):
        raise ValueError(f"{len(lines)} captions came with {len(below)} following ones; give one each")
    words: dict[str, list[str]] = _closed_chunks()
    tokenized = []
    for line, next_line in zip(lines, below, strict=True):
        tokens: list[str] = []
        for chunk in line.split(" "):
            known = words.get(chunk)
            if known is None:
                known = _closed_tokens(chunk, words)
                if known is None:
                    tokens = _tokenize_line(line, next_line, words)
                    break
            tokens += known
        tokenized.append(tokens)
    return tokenized


def neighbours(captions: Sequence[str]) -> list[str]:
    """For each caption the one below it: what `tokenize(..., following=)` needs where a list is cut in parts."""
    return [*captions[1:], ""] if captions else []


def forget_words() -> None:
    """Drop the words that were tokenized so far: for measuring, tokens do not depend on them."""
    _closed_chunks.cache_clear()


def _line(caption: object, index: int) -> str:
    if not isinstance(caption, str):
        raise ValueError(f"caption {index} must be a string and is {type(caption).__name__}: {caption!r}")
    return caption.replace("\n", " ")


@functools.cache
def _closed_chunks() -> dict[str, list[str]]:
    return {"": []}


@functools.cache
def _stand_ins() -> dict[int, str]:
    return stand_ins()


def _tokenize_line(line: str, next_line: str, words: dict[str, list[str]]) -> list[str]:
    shadow = ""
    tokens: list[str] = []
    position = 0
    for match in _CHUNK.finditer(line):
        if match.start() < position:
            continue
        chunk = match.group()
        known = words.get(chunk) or _closed_tokens(chunk, words)
        if known is not None:
            tokens += known
            continue
        shadow = shadow or f"{line.translate(_stand_ins())}\n{next_line.translate(_stand_ins())}\n"
        found, position = _lex(line, shadow, match.start(), match.end())
        tokens += found
    return tokens


def _closed_tokens(chunk: str, words: dict[str, list[str]]) -> list[str] | None:
    """Tokens of a chunk that depends on nothing around it, kept in `words`; None where they may depend."""
    if not _CLOSED.fullmatch(chunk):
        return None
    if len(words) >= _CACHE_LIMIT:
        words.clear()
        words[""] = []
    word = chunk[:-1] if chunk[-1] in ",." else chunk
    if word.isascii() and word.isalpha() and word.lower() not in RULED_WORDS:
        words[chunk] = [word.lower()]  # no rule asks for it, and rules are slow
    else:
        words[chunk], _ = _lex(chunk, f"{chunk}\n", 0, len(chunk))
    return words[chunk]


def _lex(text: str, shadow: str, position: int, stop: int) -> tuple[list[str], int]:
    """Tokens that start in [position, stop), and where the last of them ends."""
    tokens = []
    while position < stop:
        if shadow[position] in BLANKS:
            position += 1
            continue
        end, split = longest(shadow, position)
        token = text[position:end]
        tokens += [_written(part) for part in (split(token) if split else [token])]
        position = end
        if end > stop:  # it spanned a space: finish the chunk that it ended in
            space = text.find(" ", end)
            stop = len(text) if space < 0 else space
    return [token for token in tokens if token not in DROPPED], position


def _written(token: str) -> str:
    """How the reference writes a token."""
    whole = _WHOLE.get(token) or _ENTITIES.get(token.lower())
    if whole is not None:
        return whole
    if _QUOTE_RUN.fullmatch(token):
        return "".join(_QUOTES.get(character, character) for character in token)
    if token.strip("-") == "":
        return "--" if 2 <= len(token) <= 4 else token
    if token.count(".") >= 3 and token.strip(". \xa0") == "":
        return "..."
    token = (token.replace("\xad", "") or "-").replace(" ", "\xa0").replace("&amp;", "&")
    if not (token[0] == "<" and token[-1] == ">") and "://" not in token:
        token = "".join(_ROUND_BRACKETS.get(character, character) for character in token)
    token = token.lower()
    if _CONTRACTION.fullmatch(token):
        token = token.replace("\u2019", "'").replace("\x92", "'")
    return "-" if token in {"\u2010", "\u2011", "\u058a"} else token
