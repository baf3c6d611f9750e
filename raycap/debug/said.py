"""Checks of what was said: empty, repetitive, cut off, or pressed into a shape by settings. See checks.py."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import torch

from raycap.debug.study import Study
from raycap.pages import Verdict, verdict


def check_empty(study: Study) -> Verdict | None:
    """The end token where the caption should begin."""
    if not study.best:
        return None
    first = math.exp(float(study.best.log_probabilities[0, study.tokenizer.end_id]))
    return verdict(
        "End at the first token",
        f"probability {first:.3g} that the caption ends before its first word",
        bad=first > 0.5 or not study.captions[0].text,
        warn=first > 0.05,
        advice="Set --min-tokens 3 to see what comes behind; then look for empty captions in the training rows "
        "(`raycap explore`), and whether the language model was trained with an end token first.",
    )


def check_repetition(study: Study) -> Verdict:
    """The same words again and again."""
    loop = find_loop(words_of(study))
    return verdict(
        "Repetition",
        f"{' '.join(loop)!r} comes three times or more in a row" if loop else "no words in a loop",
        bad=bool(loop),
        advice="Set --no-repeat-ngram 3 or --repetition-penalty 1.2; a model that loops by itself is usually "
        "trained too little, or does not see the image.",
    )


def words_of(study: Study) -> list[str]:
    """Of the best caption, in small letters, without punctuation."""
    return re.findall(r"[\w'’-]+", study.captions[0].text.lower())


def find_loop(words: Sequence[str], *, times: int = 3, longest: int = 6) -> list[str]:
    """The shortest run of at most `longest` words that follows itself so many times; empty where there is none."""
    for size in range(1, longest + 1):
        for begin in range(len(words) - size * times + 1):
            unit = list(words[begin : begin + size])
            if list(words[begin : begin + size * times]) == unit * times:
                return unit
    return []


def check_repeated_phrase(study: Study) -> Verdict | None:
    """Phrases that come again with other words between."""
    words = words_of(study)
    if len(words) < 4:
        return None
    phrases = Counter(zip(words, words[1:], words[2:], strict=False))
    phrase, count = phrases.most_common(1)[0]
    return verdict(
        "Phrases said twice",
        f"{' '.join(phrase)!r} comes {count} times" if count > 1 else "no three words come together twice",
        warn=count > 1,
        advice="--no-repeat-ngram 3 forbids it; a better trained model rarely needs that.",
    )


def check_cut(study: Study) -> Verdict | None:
    """A caption that did not end by itself."""
    if not study.best:
        return None
    ended = study.best.token_ids[-1:] == [study.tokenizer.end_id]
    limit = study.decoding.max_tokens
    return verdict(
        "Ending",
        "the caption ends by itself" if ended else f"cut off at {limit} tokens, without an end token",
        warn=not ended,
        advice=f"Set --max-tokens above {limit}; where it then goes on and on, the training captions were cut "
        "(train.max_tokens) so that the model never learned to end.",
    )


def check_settings(study: Study) -> Verdict:
    """Decoding settings that press captions into a shape."""
    own = study.decoding
    odd = {
        f"max_tokens={own.max_tokens}": own.max_tokens < 10,
        f"min_tokens={own.min_tokens}": own.min_tokens > 10,
        f"length_penalty={own.length_penalty:g}": not -0.01 <= own.length_penalty <= 2,
        f"repetition_penalty={own.repetition_penalty:g}": not 0.9 <= own.repetition_penalty <= 1.5,
        f"temperature={own.temperature:g}": own.sample and own.temperature > 1.2,
        f"no_repeat_ngram={own.no_repeat_ngram}": own.no_repeat_ngram == 1,
    }
    named = [name for name, is_odd in odd.items() if is_odd]
    return verdict(
        "Decoding settings",
        f"unusual: {', '.join(named)}" if named else "within the usual",
        warn=bool(named),
        advice="max_tokens and a negative length_penalty make captions short, penalties make them odd, a high "
        "temperature makes them random; leave them out to see the model's own choice.",
    )


def check_confidence(study: Study) -> Verdict | None:
    """Tokens that the model itself holds for unlikely."""
    if not study.best:
        return None
    chosen = study.best.log_probabilities.gather(1, torch.tensor(study.best.token_ids)[:, None])
    mean = math.exp(float(chosen.mean()))
    return verdict(
        "Confidence",
        f"a token has probability {mean:.2f} on (geometric) average",
        warn=mean < 0.15,
        advice="The model is guessing: a photo unlike the training photos, little training, or a high "
        "temperature. Compare with a training photo.",
    )


def check_vocabulary(study: Study) -> Verdict | None:
    """What a head cut to the training captions' tokens leaves out."""
    if not study.best or not study.vocabulary:
        return None
    known = torch.zeros(study.best.log_probabilities.shape[1], dtype=torch.bool)
    known[list(study.vocabulary)] = True
    outside = float(study.best.log_probabilities[:, ~known].exp().sum(-1).max()) if not known.all() else 0.0
    cut = "are cut off" if study.vocabulary_cut else "may be used"
    return verdict(
        "Vocabulary",
        f"tokens that no training caption uses {cut}; at most {outside:.1%} of a step's probability lies on them",
        warn=study.vocabulary_cut and outside > 0.1,
        advice="The model would say words that the cut forbids: take --vocabulary all.",
    )


def check_precision(study: Study) -> Verdict | None:
    """Whether the decoder's scores are those of the plain float32 model."""
    own = study.decoding
    if not study.best or own.penalises or study.vocabulary_cut:
        return None
    chosen = study.best.log_probabilities.gather(1, torch.tensor(study.best.token_ids)[:, None])
    difference = abs(float(chosen.sum()) / len(chosen) ** own.length_penalty - study.best.caption.score)
    return verdict(
        "Decoder against the plain model",
        f"the caption's score in {study.precision} differs by {difference:.2g} from plain float32",
        warn=difference > 0.1,
        advice="Rounding changes scores: captions may differ from those in float32; compare with "
        "--precision float32.",
    )
