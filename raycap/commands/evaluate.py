"""`raycap evaluate`."""

from typing import Annotated

from cyclopts import Parameter

from raycap import evaluate as stage
from raycap.config import DataConfig
from raycap.data import start_ray
from raycap.engine import GivenDecoding

CHECKPOINTS_OWN = GivenDecoding()


def evaluate(
    checkpoint: str,
    /,
    *,
    data: DataConfig,
    decoding: Annotated[GivenDecoding, Parameter(show_default=False)] = CHECKPOINTS_OWN,
    options: Annotated[stage.EvaluateOptions, Parameter(name="*")] = stage.EvaluateOptions(),
) -> None:
    """Caption a split and score the captions: BLEU-1..4, ROUGE-L, CIDEr-D, METEOR, CLIPScore, with 95 % intervals.

    Prints the path of report.json, which holds what is needed to reproduce it; captions.jsonl lies beside it.
    Decoding settings that are not given are the checkpoint's own; --beams is short for --decoding.beams.

    Parameters
    ----------
    checkpoint
        A run folder (its best checkpoint by the caption metric), RUN/best-loss, RUN/last, or a checkpoint folder.
    data
        The prepared rows to score on.
    decoding
        How captions are made; what is not given comes from the checkpoint. --beams is short for --decoding.beams.
    """
    start_ray()
    print(
        stage.evaluate(
            stage.EvaluateConfig(checkpoint=checkpoint, data=data, decoding=decoding, evaluate=options)
        )
    )
