"""`raycap score`."""

import json
from typing import Annotated

from cyclopts import Parameter

from raycap import score as stage

DEFAULTS = stage.ScoreOptions()


def score(
    captions: str, /, *, options: Annotated[stage.ScoreOptions, Parameter(name="*")] = DEFAULTS
) -> None:
    """Score anybody's captions against references: BLEU, ROUGE-L, CIDEr-D, METEOR, with 95 % intervals.

    Tables go to stderr. --json prints the whole report on stdout, --per-image FILE writes every image's own scores,
    --compare OTHER says whether the first captions are really better. Needs neither Ray nor network.

    Parameters
    ----------
    captions
        COCO results, a list with image_id, candidate and references, or CSV: .json, .jsonl or .csv.
    """
    report = stage.score_file(captions, options)
    if options.as_json:
        print(json.dumps(report, indent=2))
    elif options.per_image:
        print(options.per_image)
