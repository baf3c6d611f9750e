"""How COCO's tokenizer sees each character beyond ASCII, and the single-byte stand-ins the rules are written in.

The table was measured by tokenizing every code point of Unicode's first plane with the reference tool: its
letters are those of an old Unicode, and what it does not know it deletes. Knows nothing of the rules.
"""

from __future__ import annotations

import re

# Runs of code points from U+0080: length in base 36, then the class. L letter, M mark (a letter except
# after a digit), D digit, S a sign standing alone, X deleted.
_RUNS = (
    "xX9S2L9S1L4S5L1SnL1SvL1ScqL4McLeM5L7M1L1M1L3lM5L1M2L2M4L1S5X2M1L1S3L1X1L1XkL2X2aL1M3vL1X5M2X4eL9"
    "X12L2X1L6M1X13L1X2S6X19M1S1M1S2M1S2M1S1M8XrL5X3L2SbX4S2X7S7X1S6M1S2X2S17LkM1XaD4S2L1M2rL1S1LfM2L"
    "7M2LaD3L2M1LeS1X1M1L1MuLtM2hLbM1LeXaDxL9M2L3S1X1L5XmL4X1L9X1L3X1LnXpL1zX1L1XbL2bX4M1iL2X1M1LhM1X"
    "1L5M2XaL2M2SaD1X7L1X7L1X3M1X8L2X2L2XmL1X7L1X1L3X4L2X1M1L7M2X2M2X3M1L8X1M4X2L1X3L2M2XaD2LfX3M1X6L"
    "4X2L2XmL1X7L1X2L1X2L1X2L2X1M1XiM9X4L1X1L7XaD2X3LcX3M1X9L1X3L1XmL1X7L1X2L1X5L2X1M1LiM1LfX2L4XaDlX"
    "8L2X2L2XmL1X7L1X2L1X5L3X1LuX2L1X3L4XaD1X1LgX1M1L1X6L3X3L1X4L3X2L1X1L1X2L3X2L3X3L3XcL4X5M3X3M1X4M"
    "2X1LlXaDhX3M1X8L1X3L1XnL1XaL1X5L3X1LpM1X2L6X2L4XaDlX8L1X3L1XnL1XaL1X5L3X1LwX1L1X2L4XaD1X2LiX8L1X"
    "3L1X15L2X1L7M1X3M5X1LhX2L4XaDaX6L5XiL3XoL1X9L1X1L2X7L1mX1cL1M2L7M4X1S7L8M1SaD13X2L1X1L2X2L1X1L2X"
    "1L6X4L1X7L1X3L1X1L1X1L2X2L1X4L1M2L9M1L2X5L1X1L1X6M2XaD2X4LwX1LvXaDmX8L1X10LrX5L37X17LkX1LaD6X6L4"
    "X4L3X1L3X2L7X3L4XdLcX1L1XaD6X12L1X1L5X1L2X17L1X99L1X4L2X7L1X1L1X4L2X15L1X4L2XxL1X4L2X7L1X1L1X4L2"
    "XfL1X1lL1X4L2X1vL11XgLgX2dLcXh8L2XhL1XqL5X23LlXdL1X4LeXiLeXiLeXdL1X3LfX1gLzX1L4X1L3XaD12XaD6X2gL"
    "8X15L1X1L5X1yLaXtL15XaDuL2X5LbX18LlX7L8XaD12XnL9X1hL17XaD6XaDdX1L2lX1bLhX7L4XaD15XuLdX2LaD18LqX1"
    "0LsXaD3X3LaD10L2zX4L1X4L3X2L9X5cL1sX7qL2X6L2X12L2X6L2X8L1X1L1X1L1X1L1XvL2X1hL1X7L1S1L3X3L1X7L3X4"
    "L2X6L4XdL5X3L1X7LpXeScXcS2X5S19X1S1L2XbS1LfS1XdL7X1S2jX2S1L4S1L2SaL1S1L3S5L6S1L1S1L1S1L1S4L1SbL2"
    "S4L5S5L4S1L1S5XaS10X2LbX228S1bL1X1bL1X3pL6X4L3X2LcX12L1X1L5X1L2X1kL7X1LgXnL9X7L1X7L1X7L1X7L1X7L1"
    "X7L1X7L1X7L28X1LcxX2S2X2LbX1SuX5L5X2L4X2eL6X3L1X2iL1S4L5X15L3X2mLhXrL1hXgLe8X52uL22Xg5pL1fXwdL1v"
    "X1aL2X7hL3XgLaD2LkX1bLgXpL8X1yL1dX9L2X2vL2X4L1X4LcXbL25XaL1X3L1X4L1XnLtX1gLeX1eLsXaDoX6L3X1L4XaD"
    "sLaXnLpXtL7X1bLsX1LaD12X15LnX3L1X8L4XaD6XnL3X1L5X1cL1X1L3X2L2X5L2X1L1X1LoX3L2XbL7X3LcX6L2X6L2X6L"
    "9X7L1X7L41XzLdXaD6X8mcLcXnL4X1dL6isXa6L2X2yL12X7LcX5L5X1L1XaL1XdL1X5L1X1L1X2L1X2L1X30LxXa3LiX1sL"
    "2X1iL14XcL38X5L1X3rL4XfSaD7SqL6SqLbS2hL3X6L2X6L2X6L2X3L3X2S3X2SpX"
)
LETTER, MARK, DIGIT, SIGN, DELETED = "\xe9", "\u0301", "\u0660", "\xa7", "\x02"
CURRENCY, FRACTION, DASH = "\xa4", "\xbd", "\u2014"
_STAND_INS = {"L": LETTER, "M": MARK, "D": DIGIT, "S": SIGN, "X": DELETED}
_AS_THEMSELVES = (
    "\x91\x92\x93\x94\xa0\xab\xad\xbb\u066b\u066c\u2010\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2026"
    "\u2039\u203a\u2044"
)
_SHARED = {
    LETTER: "\u03a3",
    CURRENCY: "\x80\xa2\xa3\xa4\u20a0\u20ac",
    FRACTION: "\xbc\xbd\xbe\u2153\u2154",
    DASH: "\x96\x97\u2013\u2014\u2015",
    "\u2010": "\u058a\u2011",
    "\t": "\t\u3000" + "".join(map(chr, range(0x2000, 0x200B))),
    # Line ends would break the reference tool's file into lines that belong to no caption.
    DELETED: "\x85\u2028\u2029",
}


class _Table(dict[int, str]):
    def __missing__(self, code: int) -> str:
        # beyond the first plane everything is deleted
        character = chr(code) if 0x20 <= code < 0x7F else DELETED
        self[code] = character
        return character


def stand_ins() -> dict[int, str]:
    """A table for str.translate that gives each character its stand-in, one for one."""
    table = _Table()
    code = 0x80
    for length, kind in re.findall(r"([0-9a-z]+)([LMDSX])", "".join(_RUNS)):
        for offset in range(int(length, 36)):
            table[code + offset] = _STAND_INS[kind]
        code += int(length, 36)
    table.update({ord(character): character for character in _AS_THEMSELVES})
    for stand_in, characters in _SHARED.items():
        table.update({ord(character): stand_in for character in characters})
    table.update(dict.fromkeys(range(0xD800, 0xE000), DELETED))  # lone surrogates
    return table
