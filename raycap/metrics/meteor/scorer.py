"""METEOR 1.5 of tokenized captions, computed here or by the reference jar: `Meteor` and `JavaMeteor`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from raycap.metrics.meteor import lists, sources
from raycap.metrics.meteor.align import align
from raycap.metrics.meteor.lexicon import Caption, Lexicon
from raycap.metrics.meteor.sources import MeteorUnavailableError
from raycap.metrics.meteor.statistics import VERSION, Ints, MeteorStatistics, count

Tokens = Sequence[str]
_PART = 512  # images whose captions are held at a time
# What a line of UTF-8 cannot hold, as characters that METEOR treats alike: line ends inside a tag or a URL as blanks,
# halves of surrogate pairs as signs that stand alone, each one's own (of a private area).
_FOR_THE_JAR = {0x0A: 0x20, 0x0D: 0x20, **{half: half + 0x800 for half in range(0xD800, 0xE000)}}


class Meteor:
    """METEOR 1.5 for English, without Java."""

    VERSION = VERSION

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    @classmethod
    def load(cls, source: str = "") -> Meteor:
        """METEOR with the word lists of the installed pycocoevalcap, or of a METEOR 1.5 folder.

        Raises:
            MeteorUnavailableError: they are absent.
        """
        return cls(Lexicon(lists.load(sources.find(source))))

    def statistics(
        self, predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
    ) -> MeteorStatistics:
        """Counts of each image's prediction against the reference that scores it best.

        Args:
            predictions: PTB tokens of each image's caption.
            references: PTB tokens of each image's references.

        Raises:
            ValueError: an image without a reference, or another number of images than of predictions.
        """
        pairs = list(_lines(predictions, references))
        parts = [self._part(pairs[first : first + _PART]) for first in range(0, len(pairs), _PART)]
        return MeteorStatistics.concatenate(parts)

    def _part(self, pairs: Sequence[tuple[str, list[str]]]) -> MeteorStatistics:
        captions = self._lexicon.captions(text for caption, texts in pairs for text in (caption, *texts))
        rows = [self._row(captions[caption], captions[text]) for caption, texts in pairs for text in texts]
        every = MeteorStatistics.of(rows)
        return every.take(_best(every, [len(texts) for _, texts in pairs]))

    def _row(self, caption: Caption, reference: Caption) -> list[int]:
        return count(caption, reference, *align(self._lexicon, caption, reference))


def _lines(
    predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Iterator[tuple[str, list[str]]]:
    """Each image's caption and references as COCO writes them to the jar, whose fields "|||" parts.

    A caption loses that sign; a reference that holds it (a tag such as "<a|||b>") becomes two.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for the references of {len(references)} images")
    for image, (tokens, texts) in enumerate(zip(predictions, references, strict=True)):
        if not texts:
            raise ValueError(f"image {image} has no reference")
        caption = " ".join(tokens).replace("|||", "").replace("  ", " ")
        yield caption, [part for text in texts for part in " ".join(text).split("|||")]


def _best(every: MeteorStatistics, num_references: Sequence[int]) -> Ints:
    """Row of the first best reference of each image."""
    scores, rows, first = every.each(), [], 0
    for num in num_references:
        rows.append(first + int(np.argmax(scores[first : first + num])))
        first += num
    return np.array(rows, dtype=np.int64)


class JavaMeteor:
    """METEOR 1.5 by the reference jar, as COCO evaluation drives it; Java starts for each call and ends with it."""

    VERSION = f"{VERSION} (reference jar)"

    def __init__(self, java: str, jar: Path) -> None:
        self._command = [java, "-jar", "-Xmx2G", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]

    @classmethod
    def load(cls, source: str = "") -> JavaMeteor:
        """The jar of the installed pycocoevalcap, or of a METEOR 1.5 folder.

        Raises:
            MeteorUnavailableError: the jar or Java is absent.
        """
        jar = sources.find(source, wanted="jar").jar
        java = shutil.which("java")
        if java is None:
            raise MeteorUnavailableError(
                "the reference METEOR needs Java, and there is no `java` on the PATH; install a Java runtime (8 or "
                "newer), or let raycap compute METEOR itself"
            )
        return cls(java, jar)

    def statistics(
        self, predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
    ) -> MeteorStatistics:
        """Counts that the jar prints for each image, for the reference that it chose.

        Raises:
            ValueError: as `Meteor.statistics`.
            ChildProcessError: Java or the jar failed.
        """
        pairs = list(_lines(predictions, references))
        if not pairs:
            return MeteorStatistics.of([])
        lines = [f"SCORE ||| {' ||| '.join(texts)} ||| {caption}" for caption, texts in pairs]
        asked = "".join(f"{line.translate(_FOR_THE_JAR)}\n" for line in lines)
        # `run` waits for the process and kills it where waiting is interrupted.
        done = subprocess.run(self._command, input=asked.encode(), capture_output=True, check=False)
        answers = done.stdout.decode(errors="replace").splitlines()
        if done.returncode or len(answers) != len(pairs):
            raise ChildProcessError(
                f"METEOR's jar ended with code {done.returncode} after {len(answers)} of {len(pairs)} captions: "
                f"{done.stderr.decode(errors='replace').strip()[-500:] or 'it gave no reason'}"
            )
        # A line's last two numbers are sums of others.
        return MeteorStatistics.of([[int(float(field)) for field in line.split()[:-2]] for line in answers])
