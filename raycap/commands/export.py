"""`raycap export`."""

from typing import Annotated

from cyclopts import Parameter

from raycap import export as stage


def export(checkpoint: str, /, *, config: Annotated[stage.ExportConfig, Parameter(name="*")]) -> None:
    """Turn a checkpoint into a folder for people who do not have raycap, or into a small one for those who do.

    --form transformers merges everything into a plain VisionEncoderDecoderModel with tokenizer, image processor,
    generation config and a model card whose snippet needs only transformers, torch and pillow. --form adapter copies
    what was trained, without the state that only a resume needs; `raycap caption --checkpoint` and `raycap serve
    --checkpoint` take it. Before the folder appears, its captions of test pictures are held against raycap's.
    Prints the folder.

    Parameters
    ----------
    checkpoint
        A run folder (its best checkpoint by the caption metric), RUN/best-loss, RUN/last, or a checkpoint folder.
    """
    print(stage.export(checkpoint, config))
