"""The three steps from prepared rows to feature files, each of which Ray Data runs and scales on its own.

decode (CPU tasks): a chunk of rows -> uint8 pixels at the encoder's size; encode (actors, on GPUs where there
are any): pixels -> float16 features; write (CPU tasks): features -> one Parquet file, whole or absent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ray.data.extensions import ArrowTensorArray

from raycap import storage
from raycap.data.chunks import Chunk, read_chunk, the_chunk
from raycap.schema import image_key
from raycap.vision import BadImageError, EncoderConfig, Preprocessor, VisionEncoder, decode_image

ROWS_PER_GROUP = 64  # of a feature file: what training reads as one block
PLAIN = ("image_id", "split", "captions")
MIRRORED = "mirrored"  # features of the mirror image, beside `features`; training rows only
# By leaf. Half-precision noise does not compress, and nobody asks for its statistics.
COMPRESSION = {
    "image_id": "zstd",
    "split": "zstd",
    "captions.list.element": "zstd",
    "features.list.item": "none",
    f"{MIRRORED}.list.item": "none",
}


def decode_chunk(
    batch: pa.Table, *, preprocess: Preprocessor, names: dict[str, str], skip: Collection[int] = ()
) -> pa.Table:
    """Rows of one chunk with `pixels` (rows, 3, height, width) uint8 in the place of `image`.

    Args:
        batch: one row, the chunk.
        preprocess: of the encoder.
        names: feature file to write, by chunk; empty where none is written.
        skip: image keys to leave out.

    Raises:
        ValueError: an image that cannot be read, named.
    """
    chunk = the_chunk(batch)
    rows = read_chunk(chunk, columns=[*PLAIN, "image"])
    if skip:
        rows = rows.filter(pa.array([image_key(name) not in skip for name in rows["image_id"].to_pylist()]))
    pixels = np.empty((len(rows), 3, *preprocess.output_size), dtype=np.uint8)
    for index, (name, image) in enumerate(zip(rows["image_id"], rows["image"], strict=True)):
        try:
            pixels[index] = preprocess(decode_image(image.as_py()))
        except BadImageError as error:
            raise ValueError(
                f"image {name.as_py()!r} in {chunk.file} cannot be read ({error}); run `raycap prepare` again"
            ) from None
    table = rows.select(PLAIN).append_column("pixels", ArrowTensorArray.from_numpy(pixels))
    if not names:
        return table
    return table.append_column("file", pa.array([names[chunk_name(chunk)]] * len(rows), pa.string()))


def chunk_name(chunk: Chunk) -> str:
    """What tells a chunk from the others of its data."""
    return f"{chunk.file}:{chunk.start}"


class EncodeChunk:
    """An encoder on its device, in an actor of its own."""

    def __init__(
        self,
        *,
        encoder: dict[str, Any],
        fingerprint: str,
        device: str,
        batch_size: int,
        mirror: bool,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self.batch_size, self.mirror = batch_size, mirror
        self.encoder = VisionEncoder(EncoderConfig.model_validate(encoder), device=device)
        if self.encoder.fingerprint != fingerprint:
            raise ValueError(
                f"the encoder {self.encoder.config.name} on this machine differs from the one where the run was "
                "started; give every machine the same model"
            )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Replace `pixels` by `features`, with `mirrored` beside them where asked for.

        Both are (rows, patches, vision_dim) float16.
        """
        pixels = tensor_column(batch, "pixels")  # (rows, 3, height, width)
        rows = batch.drop_columns(["pixels"]).add_column(2, "features", self.encode(pixels))
        if self.mirror and batch["split"][0].as_py() == "train":
            rows = rows.add_column(3, MIRRORED, self.encode(pixels[..., ::-1]))
        return rows

    def encode(self, pixels: np.ndarray[Any, Any]) -> ArrowTensorArray:
        """Features of pixels (rows, 3, height, width), some at a time."""
        features = np.empty((len(pixels), self.encoder.patches, self.encoder.vision_dim), dtype=np.float16)
        for begin in range(0, len(pixels), self.batch_size):
            part = slice(begin, begin + self.batch_size)
            features[part] = self.encoder.encode(np.ascontiguousarray(pixels[part])).cpu().numpy()
        return ArrowTensorArray.from_numpy(features)


def write_chunk(batch: pa.Table) -> pa.Table:
    """Write one chunk's features to its file, and say how many rows of what shape it has."""
    (file,) = set(batch["file"].to_pylist())
    table = batch.drop_columns(["file"])
    shape = tensor_column(table, "features").shape
    with storage.writing(file) as stream:
        pq.write_table(
            table,
            stream,
            row_group_size=ROWS_PER_GROUP,
            compression=COMPRESSION,
            use_dictionary=["split"],
            write_statistics=False,
        )
    return pa.table({"file": [file], "rows": [shape[0]], "patches": [shape[1]], "vision_dim": [shape[2]]})


def tensor_column(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """A tensor column as one array (rows, ...), without copying where it is one piece; read-only then."""
    column = table[name]
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values: np.ndarray[Any, Any] = array.to_numpy_ndarray()
    return values
