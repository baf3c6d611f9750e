"""Captions that are worth a look before a model learns them: each kind is a name, why it matters, and a test."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from raycap.explore.similar import Texts
from raycap.explore.survey import Survey

FEW_WORDS, MANY_WORDS = 3, 40
FOREIGN_SHARE = 0.2  # of the characters
MANY_IMAGES = 10
EXAMPLES = 5
LOOP = re.compile(r"\b(\w+)(?:\W+\1\b){2,}", re.IGNORECASE)
MARKUP = re.compile(r"https?://|www\.|</?[a-z][^>]*>|&(?:[a-z]+|#\d+);|\S+@\S+\.\w", re.IGNORECASE)
PLACEHOLDER = re.compile(
    r"^\W*(?:n/?a|none|null|nan|undefined|untitled|test|todo|lorem ipsum.*|"
    r"(?:no |missing |broken )?(?:image|photo|picture|caption|description)"
    r"(?: (?:is )?(?:not )?(?:available|missing|here))?|"
    r"(?:img|dsc|image|photo)[_ -]?\d+(?:\.\w{3,4})?)\W*$",
    re.IGNORECASE,
)


@dataclass
class Oddity:
    """One kind of odd caption, how many there are, and some of them."""

    name: str
    why: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(image id, caption)."""

    def add(self, image_id: str, caption: str) -> None:
        """Count one, and keep it while there are few."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((image_id, caption))


def shouted(caption: str) -> bool:
    """Written in capitals."""
    letters = [character for character in caption if character.isalpha()]
    return len(letters) >= 10 and sum(map(str.isupper, letters)) > 0.8 * len(letters)


def foreign(caption: str) -> bool:
    """Much of it beyond ASCII."""
    return sum(not character.isascii() for character in caption) >= FOREIGN_SHARE * max(len(caption), 1)


def unprintable(caption: str) -> bool:
    """Control characters, private ones, or halves of pairs."""
    return any(unicodedata.category(character)[0] == "C" for character in caption)


TESTS: dict[str, tuple[str, Callable[[str], bool]]] = {
    f"fewer than {FEW_WORDS} words": (
        "a model learns to end early",
        lambda caption: len(caption.split()) < FEW_WORDS,
    ),
    f"more than {MANY_WORDS} words": (
        "cut at train.max_tokens, so that a model never sees them end",
        lambda caption: len(caption.split()) > MANY_WORDS,
    ),
    "a word three times in a row": ("a model learns to loop", lambda caption: bool(LOOP.search(caption))),
    f"{FOREIGN_SHARE:.0%} or more not ASCII": (
        "another language, or text decoded wrongly; an English tokenizer spends many tokens on it",
        foreign,
    ),
    "unprintable characters": ("left by a wrong decoding", unprintable),
    "an address or markup": (
        "scraped text that nobody wrote about the photo",
        lambda c: bool(MARKUP.search(c)),
    ),
    "a placeholder": ("no description at all", lambda caption: bool(PLACEHOLDER.match(caption))),
    "no letters": ("no words to learn", lambda caption: not any(map(str.isalpha, caption))),
    "in capitals": ("other tokens than the same words in small letters", shouted),
}


def find_oddities(survey: Survey, texts: Texts) -> list[Oddity]:
    """All kinds with their counts, those that do not occur too."""
    found = [*odd_texts(survey), said_twice(survey, texts), said_of_many(survey, texts)]
    return sorted(found, key=lambda oddity: -oddity.count)


def odd_texts(survey: Survey) -> list[Oddity]:
    """What a caption shows by itself."""
    kinds = [(Oddity(name, why), test) for name, (why, test) in TESTS.items()]
    for caption, owner in zip(survey.captions, survey.owner.tolist(), strict=True):
        for oddity, test in kinds:
            if test(caption):
                oddity.add(survey.image_ids[owner], caption)
    return [oddity for oddity, _ in kinds]


def said_twice(survey: Survey, texts: Texts) -> Oddity:
    """The same words again about the same image."""
    oddity = Oddity("the same words twice for one image", "counts twice in training, and as two references")
    for images, example in zip(texts.images, texts.example, strict=True):
        if len(images) == len(set(images)):
            continue
        for image in (image for image, count in Counter(images).items() if count > 1):
            oddity.add(survey.image_ids[image], survey.captions[example])
    return oddity


def said_of_many(survey: Survey, texts: Texts) -> Oddity:
    """The same words for many images."""
    oddity = Oddity(
        f"the same words for {MANY_IMAGES} images or more", "boilerplate that a model falls back to"
    )
    for images, example in zip(texts.images, texts.example, strict=True):
        if len(images) >= MANY_IMAGES and (count := len(set(images))) >= MANY_IMAGES:
            oddity.add(f"{count:,} images", survey.captions[example])
    return oddity
