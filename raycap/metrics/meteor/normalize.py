"""What METEOR 1.5's `-norm` makes of a caption that is already PTB tokens: its own words, lower case.

It sets signs apart, opens hyphens ("t-shirt" is two words), makes "'s" and "p.m." of PTB two words ("'", "s") and one
("pm"). The rules are applied to the whole line, in order, each consuming what it matches, so that "a-b-c" keeps its
second hyphen. Knows nothing of scoring.
"""

from __future__ import annotations

import re
from collections.abc import Set

# The reference's letters: Latin up to U+017E, Cyrillic and phonetic ones; any other is a sign that stands alone.
_LETTERS = "A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\u017e\u0400-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_PLAIN = re.compile(r"[a-z0-9 ]*")
_DOTS = re.compile(r"\.{2,}")
_DOT = "\0"  # stands for each dot of a run, which no later rule may take for a full stop
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"([^0-9{_LETTERS} \t\n\x0b\f\r.'`,\-‘’{_DOT}])", r" \1 "),
        (rf"({_DOT}+)", r" \1 "),
        ("([^0-9]),([^0-9])", r"\1 , \2"),
        ("([0-9]),([^0-9])", r"\1 , \2"),
        ("([^0-9]),([0-9])", r"\1 , \2"),
        ("[`‘’]", "'"),
        ("[“”]|''", ' " '),
        ("–", "-"),
        ("--", "-"),
        (rf"([0-9{_LETTERS}.])-([0-9{_LETTERS}])", r"\1 \2"),
        (rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([^0-9{_LETTERS}])'([{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
        ("([0-9])'(s)", r"\1 '\2"),
    )
]
_LETTER = re.compile(f"[{_LETTERS}]")
_WORD = re.compile(r"[^ \t\n\r\f]+")
_SPACES = re.compile("[\u2000-\u200a\u202f\u205f\u3000\xa0]")


def normalize(text: str, prefixes: Set[str], number_prefixes: Set[str]) -> list[str]:
    """METEOR's words of a caption.

    Args:
        text: PTB tokens joined by spaces.
        prefixes: words after which a full stop belongs to the word.
        number_prefixes: likewise where a number follows.
    """
    if _PLAIN.fullmatch(text):
        return text.split()
    text = _DOTS.sub(lambda run: _DOT * len(run[0]), f" {text} ")
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    words = _WORD.findall(text)
    parts = [
        _full_stop(word, following, prefixes, number_prefixes)
        for word, following in zip(words, [*words[1:], ""], strict=True)
    ]
    text = _SPACES.sub(" ", " ".join(parts).replace(_DOT, "."))
    return _WORD.findall(text.lower())


def _full_stop(word: str, following: str, prefixes: Set[str], number_prefixes: Set[str]) -> str:
    """A word whose last full stop is dropped ("p.m."), kept ("vs.") or set apart."""
    if len(word) < 2 or not word.endswith("."):
        return word
    before = word[:-1]
    if "." in before and _LETTER.search(before):
        return word.replace(".", "")
    kept = before in prefixes or "a" <= following[:1] <= "z"
    if kept or (before in number_prefixes and "0" <= following[:1] <= "9"):
        return word
    return f"{before} ."
