"""`raycap caption`."""

from typing import Annotated

from cyclopts import Parameter

from raycap import caption as stage


def caption(*photos: str, config: Annotated[stage.CaptionFilesConfig, Parameter(name="*")]) -> int:
    """Caption photos, or every photo below a folder: one line a photo, its path, a tab, its caption.

    A photo that cannot be read is named on stderr, the others are captioned all the same, and the exit code is 1.
    Decoding settings (--beams, --n, --sample, ...) that are not given are the checkpoint's own.

    Parameters
    ----------
    photos
        Image files and folders.
    """
    return stage.caption_files(photos, config)
