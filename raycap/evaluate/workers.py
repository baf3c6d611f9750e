"""Scoring a large split on Ray's workers: a part of the images each, the same figures to the last bit.

Each worker tokenizes and counts its part once and keeps it in the object store; the parts' document frequencies are
merged, and captions are scored against them. Parts are cut in order, and a part's last caption is told the next
part's first, for tokens can depend on the caption below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raycap.metrics import DocumentFrequency, PreparedReferences, merge_counts
from raycap.metrics.corpus import own_source
from raycap.metrics.measure import Measured, MeteorMode
from raycap.score.parts import measure_part, prepare_part

WORKER_IMAGES = 20_000  # below, one process is done in the seconds that tasks take to start
PART_IMAGES = 5_000  # at least, where nobody says how many parts


class WorkerScorer:
    """References spread over Ray tasks; see `raycap.score.report.Scorer`.

    Raises:
        ValueError: an image without references, or a reference that is not a string.
    """

    def __init__(
        self,
        references: Sequence[Sequence[str]],
        *,
        ids: Sequence[object],
        num_parts: int,
        document_frequency: DocumentFrequency | None = None,
        meteor: tuple[MeteorMode, str] = ("off", ""),
    ) -> None:
        import ray

        self.meteor = meteor
        self.cuts = [len(references) * part // num_parts for part in range(num_parts + 1)]
        prepare = ray.remote(num_cpus=1, num_returns=2)(prepare_part)
        made = [
            prepare.remote(list(references[begin:end]), list(ids[begin:end]), _below(references, end))
            for begin, end in self._slices()
        ]
        if document_frequency is None:
            counted = _get([frequency for _, frequency in made])
            document_frequency = merge_counts(counted, source=own_source(len(references)))
        self.document_frequency = document_frequency
        weigh = ray.remote(num_cpus=1)(PreparedReferences.weighed_by)
        shared = ray.put(document_frequency)
        self.parts = [weigh.remote(prepared, shared) for prepared, _ in made]

    def measure(self, captions: Sequence[str]) -> Measured:
        """One caption an image, measured.

        Raises:
            ValueError: a caption that is not a string.
        """
        import ray

        score = ray.remote(num_cpus=1)(measure_part)
        parts = [
            score.remote(part, list(captions[begin:end]), list(captions[end : end + 1]), self.meteor)
            for part, (begin, end) in zip(self.parts, self._slices(), strict=True)
        ]
        return Measured.concatenate(_get(parts))

    def reference_tokens(self) -> list[list[list[str]]]:
        """Tokens of each image's references."""
        return [tokens for part in _get(self.parts) for tokens in part.all_tokens()]

    def _slices(self) -> list[tuple[int, int]]:
        return list(zip(self.cuts[:-1], self.cuts[1:], strict=True))


def choose_parts(wanted: int, *, num_images: int) -> int:
    """Parts to score in: as many as asked for, else one below 20,000 images and a CPU each above; 1 is this process."""
    import ray

    if wanted:
        return min(wanted, num_images)
    if num_images < WORKER_IMAGES:
        return 1
    return max(1, min(int(ray.cluster_resources().get("CPU", 1)), num_images // PART_IMAGES))


def _below(references: Sequence[Sequence[str]], end: int) -> list[str]:
    """The first caption of what follows a part; empty at the end."""
    return list(references[end][:1]) if end < len(references) else []


def _get(references: list[Any]) -> Any:
    import ray

    from raycap.evaluate.captioning import plain_errors

    with plain_errors():
        return ray.get(references)
