"""`raycap debug`."""

import sys
from typing import Annotated

from cyclopts import Parameter

from raycap import debug as stage


def debug(photo: str, /, *, config: Annotated[stage.DebugConfig, Parameter(name="*")]) -> None:
    """Show what a checkpoint sees in one photo, and why it says what it says, as one HTML report.

    The report has the encoder's input, the n-best captions, every token with its probability and alternatives, maps
    of cross-attention over the photo, and the usual reasons for empty or repetitive captions with verdicts.
    Prints the report's path; the caption, and what is wrong or worth a look, go to stderr.
    Decoding settings (--beams, --n, --sample, ...) that are not given are the checkpoint's own.

    Parameters
    ----------
    photo
        An image file.
    """
    output, study, verdicts = stage.debug(photo, config)
    print(f"caption: {study.captions[0].text or '(empty)'}", file=sys.stderr)
    for verdict in verdicts:
        if verdict.level != "good":
            print(f"{verdict.level}: {verdict.title}: {verdict.found}. {verdict.advice}", file=sys.stderr)
    print(output)
