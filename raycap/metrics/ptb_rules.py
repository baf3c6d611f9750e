"""The token patterns of COCO's tokenizer, written from the reference tool's observed behaviour.

At each position the longest match wins, lookahead included, and among equals the first rule listed. Patterns
read stand-ins (ptb_characters), so the classes below are complete. Group 1 is the token; what follows it in
the pattern is lookahead. Knows nothing of captions or of which tokens are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from raycap.metrics.ptb_characters import CURRENCY, DASH, DIGIT, FRACTION, LETTER, MARK

_ALPHA = f"[A-Za-z{LETTER}]"
_ALNUM = f"[A-Za-z0-9{LETTER}{DIGIT}]"
_ANY_LETTER = f"[A-Za-z{LETTER}{MARK}\xad]"
_ANY_LETTER_OR_DIGIT = f"[A-Za-z0-9{LETTER}{DIGIT}{MARK}\xad]"
_D = f"[0-9{DIGIT}]"
_APOSTROPHE = "(?:['\x92\u2019]|&apos;)"
_APOSTROPHE_LIKE = "(?:['`\xb4\x91\x92\u2018\u2019\u201b]|&apos;)"
_SPACE = "[ \\t\xa0]"

# Words with their inner punctuation ("hat.A", "p!o"), and those with hyphens, slashes, foreign articles (d'or).
_WORD = f"{_ANY_LETTER}{_ANY_LETTER_OR_DIGIT}*(?:[.!?]{_ANY_LETTER}{_ANY_LETTER_OR_DIGIT}*)*"
_ARTICLE = f"(?:[dDoOlL]{_APOSTROPHE_LIKE}{_ALNUM})?"
_HYPHENED = f"{_ARTICLE}{_ALNUM}+(?:[-_\u2010]{_ARTICLE}{_ALNUM}+)*"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"
_JOINED_CAPITALS = "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+"
_DOTTED_HYPHENED = rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{_INITIALS}\.|[A-Za-z0-9\xad]+))+"
_NUMBER = f"(?:{_D}*(?:[.:,\xad\u066b\u066c]{_D}+)+|{_D}+)"

_CLITIC = f"{_APOSTROPHE}(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])"
_NOT = f"[nN]{_APOSTROPHE_LIKE}[tT]"


def _words(text: str) -> list[str]:
    return text.split()


# Found by tokenizing every word of up to four letters, and word lists beyond, before a full stop.
# Those that can end a sentence outrank a short word glued to them ("Inc.x"), the others do not ("st.a").
_CLOSING_ABBREVIATIONS = _words(
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc "
    "ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov "
    "oct okla penn plc ppte ppty pte ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues "
    "univ va vt wed wis wisc wyo "
)
_TITLES = _words(
    "adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens "
    "ft gen gov govs hon insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph "
    "pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm "
)
_CAPITALISED_ABBREVIATIONS = _words("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash")
NUMBER_ABBREVIATIONS = _words("art ca fig figs no nos op pp prop")
# Words that, after a single letter and a full stop, make the stop the end of a sentence.
_SENTENCE_STARTS = _words(
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once "
    "One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You"
)
_FILE_TYPES = _words(
    "bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py "
    "sql tar txt wav wma wmv x xml zip"
)


def _any_of(words: Sequence[str]) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_CAPITALISED = _any_of([f"{word[0]}(?i:{word[1:]})" for word in _CAPITALISED_ABBREVIATIONS])
_CLOSING = rf"(?:(?i:{_any_of(_CLOSING_ABBREVIATIONS)}|(?:ph|ed)\.d)|{_CAPITALISED})"
_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_QUOTED = r"'[^'\r\n]*'|\"[^\"\r\n]*\""
_TAG = (
    rf"<(?:[!?][A-Za-z\-][^>\r\n]*"
    rf"|/?{_NAME}(?:[ ]+(?:{_NAME}[ ]*=[ ]*(?:{_QUOTED}|{_NAME})|{_NAME}))*[ ]*/?)[ ]*>"
)
_IN_URL = r"[^ \t\n\f\r\"<>|(){}]"
_URL_END = r"[^ \t\n\f\r\"<>|.!?(){},-]"
_HOST_PART = r"[^ \t\n\f\r\"<>|.!?(){},]"
_BARE_HOST_PART = r"[^ \t\n\f\r\"`'<>|.!?(){},-_$\xa0]"  # ",-_" is a range here, as in the reference
_HOST = rf"(?:www\.(?:{_HOST_PART}+\.)+[a-zA-Z]{{2,4}}|(?:{_BARE_HOST_PART}+\.)+(?:com|net|org|edu))"
_MAIL_PART = r"[^ \t\n\f\r\"<>|(){}.\xa0]"
_EYES_AND_MOUTH = r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]"
_FACE = r"\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)|[-\^x=~<>']_[-\^x=~<>']"

Split = Callable[[str], list[str]]


def _halves(token: str) -> list[str]:
    return [token[:3], token[3:]]


SPLIT_WORDS = ("cannot", "gonna", "gotta", "lemme", "gimme", "wanna")
# Words of letters alone, lowercased, for which a rule asks: with a stop after them, or to split them.
RULED_WORDS = frozenset(
    word.lower()
    for words in (
        SPLIT_WORDS,
        _CLOSING_ABBREVIATIONS,
        _TITLES,
        _CAPITALISED_ABBREVIATIONS,
        NUMBER_ABBREVIATIONS,
    )
    for word in words
)

# (pattern, how to split its token; None keeps it whole)
_PATTERNS: list[tuple[str, Split | None]] = [
    (f"((?i:{_any_of(SPLIT_WORDS)}))", _halves),
    (r"((?i:'t))(?i:is|was)", None),
    (f"({_TAG})", None),
    *((f"({stem})(?:{_CLITIC})", None) for stem in (_WORD, _HYPHENED, _SLASHED, _JOINED_CAPITALS, _NUMBER)),
    (f"([A-Za-z]*[A-MO-Za-mo-z])(?:{_NOT})", None),
    (
        f"({_APOSTROPHE}[nN]{_APOSTROPHE}|{_APOSTROPHE}[nN]|[lLdDjJ]{_APOSTROPHE}|[dD]unkin{_APOSTROPHE}"
        f"|[sS]omethin{_APOSTROPHE}|[oO]l{_APOSTROPHE}|{_APOSTROPHE}(?i:em)|[oO]{_APOSTROPHE_LIKE}[oO]"
        f"|(?i:diff{_APOSTROPHE}rent|cap{_APOSTROPHE}n|c{_APOSTROPHE}est|ma{_APOSTROPHE}am"
        f"|e{_APOSTROPHE}er|ne{_APOSTROPHE}er)|{_APOSTROPHE}(?i:til|till|cause))",
        None,
    ),
    (f"([yY]{_APOSTROPHE})(?={_ALPHA})", None),
    (f"({_CLITIC})(?:[^A-Za-z]|$)", None),
    (r"(')[A-Za-z][^ \t\r\n\xa0]", None),
    (f"({_CLITIC})", None),
    (f"([A-HJ-XZn]{_APOSTROPHE_LIKE}{_ALPHA}{_ALPHA}+)", None),
    (f"({_NOT})(?:[^A-Za-z]|$)", None),
    (r"([0-9]{1,2}[\-/][0-9]{1,2}[\-/][0-9]{2,4})", None),
    (f"([-+]?{_NUMBER})", None),
    (r"((?:[0-9]{1,4}[- \xa0])?[0-9]{1,4}(?:\\?/|\u2044)[0-9]{1,4})", None),
    (f"([{FRACTION}{CURRENCY}{DASH}])", None),
    ("([\u2018-\u201f\x91-\x94\xab\xbb\u2039\u203a`]{1,2})", None),
    (r"(C\.D\.s|[pP]ro-|[aA]nti-|S&P-500|S&Ls|-(?:RRB|LRB|RCB|LCB|RSB|LSB)-)", None),
    (rf"({_APOSTROPHE}[0-9][0-9])(?:[ \t\r\n\xa0]|$)", None),
    (f"({_APOSTROPHE}[2-9]0s)", None),
    (f"({_DOTTED_HYPHENED})", None),
    (r"('')", None),
    (f"({_ALPHA}+[aeiouyAEIOUY]{_APOSTROPHE_LIKE}[aeiouA-Z]{_ALPHA}*)", None),
    *((f"({thing})", None) for thing in (_HYPHENED, _JOINED_CAPITALS, _SLASHED, _WORD)),
    (rf"({_CLOSING}\.)[\s\S]{{0,2}}", None),
    (rf"((?i:{_any_of(_TITLES)})\.)", None),
    (r"([A-Za-z]\.)", None),
    (rf"([A-Za-z])\.[ \t\r\n\xa0]+(?:{_any_of(_SENTENCE_STARTS)}|M[rs]\.|{_TAG})[ \t\r\n\xa0]", None),
    (rf"({_INITIALS}\.)", None),
    (rf"((?:{_WORD}|{_HYPHENED}|{_DOTTED_HYPHENED})\.)[,;:\u3001]", None),
    (rf"((?i:{_any_of(NUMBER_ABBREVIATIONS)})\.)(?:[ \t\r\n\xa0]?{_D})", None),
    (rf"({_ALNUM}+(?:\.{_ALNUM}+)*\.(?i:{_any_of(_FILE_TYPES)}))[ \t\r\n\xa0.?!,]", None),
    (r"([A-Z]*\$|#)", None),
    (r"([Cc]\+\+|[CcFf]#)", None),
    (
        r"((?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])"
        r"[0-9]{3,4}[- \xa0]?[0-9]{3,5})",
        None,
    ),
    (f"(https?://{_IN_URL}+{_URL_END})", None),
    *((f"({_HOST}{path})", None) for path in ("", f"/{_IN_URL}+{_URL_END}")),
    (
        rf"((?:\\<|<|&lt;)?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){{}}\xa0]*@(?:{_MAIL_PART}+\.)*{_MAIL_PART}+(?:\\>|>|&gt;)?)",
        None,
    ),
    (f"(@[a-zA-Z_][A-Za-z_0-9]*|#{_ALPHA}+)", None),
    (f"({_EYES_AND_MOUTH})(?:[^A-Za-z0-9]|$)", None),
    (r"(\.{3,5}|(?:\.[ \xa0]){2,4}\.|\u2026)", None),
    (r"(-+|_+|@+|\*+|(?:\\\*){1,3}|#+|[?!]+)", None),
    (r"((?i:&(?:amp|lt|gt|quot|nbsp|mdash|apos);))", None),
    (f"({_FACE}|<<|>>)", None),
]
RULES = [(re.compile(pattern), split) for pattern, split in _PATTERNS]

BLANKS = frozenset(" \t\n\xa0\x02")


def longest(shadow: str, position: int) -> tuple[int, Split | None]:
    """End of the token that starts at `position`, and how to split it; one character where no rule matches."""
    best, end, chosen = 0, position + 1, None
    for pattern, split in RULES:
        match = pattern.match(shadow, position)
        if match and match.end() - position > best:
            best, end, chosen = match.end() - position, match.end(1), split
    return end, chosen
