"""Caption metrics against the reference package, tokenization included, on captions drawn from a Zipf vocabulary.

The captions are made up, five references an image with words in common, so that every n-gram lookup has work to do.
As in 25,000 captions of Flickr30k there are 11 words a caption, and one caption in a hundred holds more than words,
commas and a full stop; words as written are 15,000 where those have 10,000. Both sides start from the same strings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from raycap.benchmarks.decode import row
from raycap.benchmarks.featurize import interleaved, median_ratio
from raycap.metrics import NAMES, PreparedReferences, bootstrap, ptb

IMAGES, PER_IMAGE = 5000, 5
BATCH = 320  # candidates of a reward
VOCABULARY = 7_000
LETTERS = np.array(list("abcdefghijklmnoprstuvwy"))
# What tokenizers must look at, and how often: by word, then by caption.
INSIDE = (("'s", 0.004), (",", 0.01), ("-", 0.001))
WHOLE = ("5", "3,000", "t-shirt", "can't", '"STOP"', "(left)", "U.S.", "and/or", "9:30")
PEER = "pycocoevalcap"


def metrics_rows(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows for `jobs/benchmark.py metrics`."""
    images, rounds = (400, 1) if quick else (IMAGES, 5)
    predictions, references = make_captions(images)
    sizes = f"{images:,} images x {PER_IMAGE} references, all of BLEU, ROUGE-L, CIDEr-D from strings"
    contestants: dict[str, Callable[[], float]] = {"raycap": partial(seconds, ours, predictions, references)}
    missing = why_not()
    if not missing:
        contestants[PEER] = partial(seconds, theirs, predictions, references)
    taken = interleaved(contestants, rounds=rounds)
    found = [
        one("raycap", statistics.median(taken["raycap"]), "s", sizes=sizes)
        if missing
        else one(
            "raycap",
            statistics.median(taken["raycap"]),
            "s",
            sizes=sizes,
            ratio=median_ratio(taken[PEER], taken["raycap"]),
            ratio_to=f"{PEER}, its Java tokenizer included",
            aim=">= 10",
        )
    ]
    if missing:
        found.append(one(PEER, None, "s", sizes=f"skipped: {missing}"))
    else:
        found.append(
            one(PEER, statistics.median(taken[PEER]), "s", sizes=f"{sizes}; Java's threads are its own")
        )
        gap = largest_difference(predictions, references)
        found.append(one("largest difference of a corpus score", gap, "", sizes=sizes, aim="<= 1e-6"))
    return found + part_rows(predictions, references, rounds=rounds)


def part_rows(predictions: list[str], references: list[list[str]], *, rounds: int) -> list[dict[str, Any]]:
    """What raycap's own parts take: preparing, a reward's batch, the bootstrap."""
    prepared = PreparedReferences(references)
    statistics_of = prepared.statistics(predictions)
    images = np.random.default_rng(1).integers(len(references), size=BATCH).tolist()
    batch = [predictions[image] for image in images]
    parts = {
        "prepare references": partial(fresh, PreparedReferences, references),
        "score against prepared references": partial(fresh, prepared.statistics, predictions),
        f"CIDEr-D of {BATCH} candidates": partial(prepared.cider_d, batch, images=images),
        f"CIDEr-D of {BATCH} candidates of words never seen": partial(
            fresh, prepared.cider_d, batch, images=images
        ),
        "1,000 bootstrap resamplings": partial(bootstrap.intervals, statistics_of, num_samples=1000, seed=0),
    }
    taken = interleaved({name: partial(seconds, part) for name, part in parts.items()}, rounds=rounds)
    sizes = f"{len(references):,} images x {PER_IMAGE} references"
    return [
        one(
            name,
            1000 * statistics.median(times),
            "ms",
            sizes=sizes,
            aim="<= 30" if name.endswith("candidates") else "",
        )
        for name, times in taken.items()
    ]


def one(name: str, value: float | None, unit: str, *, sizes: str, **rest: Any) -> dict[str, Any]:
    """A row of one thread, whatever torch would take."""
    return {**row(name, value, sizes=sizes, unit=unit, **rest), "threads": 1}


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def fresh(call: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """A call with none of the words that earlier rounds have tokenized."""
    ptb.forget_words()
    return call(*arguments, **settings)


def ours(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """raycap's scores."""
    return dict(fresh(PreparedReferences, references).statistics(predictions).scores())


def theirs(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """The same six scores by pycocoevalcap, as its own COCOEvalCap calls it."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null), contextlib.redirect_stdout(null):
        tokenizer = PTBTokenizer()
        wanted = tokenizer.tokenize(
            {image: [{"caption": text} for text in captions] for image, captions in enumerate(references)}
        )
        said = tokenizer.tokenize({image: [{"caption": text}] for image, text in enumerate(predictions)})
        bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
        rouge, _ = Rouge().compute_score(wanted, said)
        cider, _ = Cider().compute_score(wanted, said)
    return dict(zip(NAMES, [*bleu, rouge, cider], strict=True))


def largest_difference(predictions: list[str], references: list[list[str]]) -> float:
    """Between the two sides' corpus scores."""
    one, other = ours(predictions, references), theirs(predictions, references)
    return max(abs(one[name] - other[name]) for name in NAMES)


def why_not() -> str:
    """Why the reference package cannot run here; "" where it can."""
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError:
        return "not installed (pip install raycap[coco])"
    return "" if shutil.which("java") else "its tokenizer needs Java"


def make_captions(images: int, *, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Predictions and references: captions of about twelve words, each image with ten words of its own."""
    random = np.random.default_rng(seed)
    words = make_words(random)
    weights = 1 / (np.arange(len(words)) + 2.7) ** 1.2  # Zipf-Mandelbrot
    weights /= weights.sum()
    predictions, references = [], []
    for _ in range(images):
        topic = random.choice(len(words), size=10, p=weights)
        captions = []
        for _ in range(PER_IMAGE + 1):
            length = max(4, int(random.gamma(5.5, 2.2)))
            general = random.choice(len(words), size=length, p=weights)
            chosen = np.where(random.random(length) < 0.3, random.choice(topic, size=length), general)
            captions.append(dress([words[index] for index in chosen.tolist()], random))
        predictions.append(captions[0].rstrip(".").lower())
        references.append(captions[1:])
    return predictions, references


def make_words(random: np.random.Generator) -> list[str]:
    """Distinct words, the frequent ones short."""
    found: dict[str, None] = {"a": None}
    while len(found) < VOCABULARY:
        length = 2 + int(random.gamma(1 + min(len(found), 2000) / 500, 1.3))
        found["".join(random.choice(LETTERS, size=length))] = None
    return list(found)


def dress(words: list[str], random: np.random.Generator) -> str:
    """A sentence: a capital, a full stop, and now and then what makes tokenizers work."""
    words[-1] = words[-1] if len(words[-1]) > 1 else max(words, key=len)  # nobody ends on "a."
    for mark, share in INSIDE:
        for place in np.flatnonzero(random.random(len(words) - 1) < share).tolist():
            if len(words[place]) > 1:
                words[place] += mark if mark != "-" else f"-{words[place]}"
    if random.random() < 0.012:
        words[int(random.integers(len(words)))] = WHOLE[int(random.integers(len(WHOLE)))]
    sentence = " ".join(words)
    return f"{sentence[0].upper()}{sentence[1:]}{'' if random.random() < 0.05 else '.'}"
