"""SPICE by the reference tool (Anderson et al. 2016), which pycocoevalcap brings: Java, and a download at first use.

Nothing is computed here; what the tool cannot do becomes one sentence. Knows nothing of files or of Ray.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

VERSION = "SPICE 1.0 (pycocoevalcap)"
DOWNLOAD_TIMEOUT_S = 30.0


class SpiceUnavailableError(ValueError):
    """The reference tool cannot run here; the message says what is missing."""


def spice(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> npt.NDArray[np.float64]:
    """SPICE of each image, (images,), from PTB tokens; the corpus score is their mean.

    Raises:
        SpiceUnavailableError: no pycocoevalcap, no Java, no Stanford CoreNLP and no network to get it, or it failed.
    """
    try:
        from pycocoevalcap.spice.spice import Spice
    except ImportError:
        raise SpiceUnavailableError(
            "SPICE needs pycocoevalcap, which is not installed: pip install 'raycap[coco]'"
        ) from None
    if shutil.which("java") is None:
        raise SpiceUnavailableError("SPICE needs Java, and there is no `java` on the PATH")
    said = {index: [" ".join(tokens)] for index, tokens in enumerate(predictions)}
    wanted = {index: [" ".join(tokens) for tokens in captions] for index, captions in enumerate(references)}
    with contextlib.redirect_stdout(sys.stderr), _timeout():
        try:
            tool = Spice()
        except OSError as error:  # URLError is one
            raise SpiceUnavailableError(
                f"SPICE downloads Stanford CoreNLP at its first use, and that failed: {error}; go online once"
            ) from None
        try:
            _, each = tool.compute_score(wanted, said)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SpiceUnavailableError(f"the SPICE tool failed: {error}; it was made for Java 8") from None
    return np.array([scores["All"]["f"] for scores in each], dtype=np.float64)


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
