"""`raycap document-frequency`."""

from typing import Annotated

from cyclopts import Parameter

from raycap import score as stage


def document_frequency(
    source: str, /, *, options: Annotated[stage.FrequencyOptions, Parameter(name="*")]
) -> None:
    """Count in how many images' captions each phrase of up to four words occurs: what CIDEr-D weighs by.

    Give the file to `raycap score` or `raycap evaluate` as --document-frequency: small sets have too few references
    of their own, and figures of different sets become comparable. Prints the file it made.

    Parameters
    ----------
    source
        A folder of prepared rows, or a file of captions: COCO annotations, a list, or CSV.
    """
    print(stage.write_frequency(source, output=options.output, split=options.split))
