"""Chunks of Parquet files, the collate function, references and the plan of featurizing: no Ray is started."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fakes import captions_of
from prepared import write_prepared

from raycap.config import ConfigError, DataConfig
from raycap.data.chunks import Chunk, chunks_of, drop_rows, first_rows, list_chunks, read_chunk
from raycap.data.featurize import (
    FeaturizeConfig,
    FeaturizeOptions,
    choose_encoders,
    chunk_rows_of,
    features_folder,
    featurize,
    other_files,
    plan,
)
from raycap.data.loading import CaptionCollate
from raycap.data.manifest import FeatureManifest, read_data_manifest, read_feature_manifest
from raycap.data.resources import Pool
from raycap.data.splits import read_references, split_chunks
from raycap.evaluate.captioning import choose_engines
from raycap.evaluate.config import EvaluateOptions
from raycap.schema import IGNORE_INDEX, image_key
from raycap.text import CaptionTokenizer, unpack
from raycap.vision import EncoderConfig, Preprocessor


def test_chunks_join_small_row_groups_and_cut_large_ones() -> None:
    joined = list(chunks_of("f", [4, 4, 4, 3], max_rows=8))
    assert joined == [Chunk("f", 0, 1, 0, 8, 0), Chunk("f", 2, 3, 0, 7, 8)]
    cut = list(chunks_of("f", [10, 2], max_rows=4))
    assert [(chunk.first, chunk.last, chunk.offset, chunk.rows, chunk.start) for chunk in cut] == [
        (0, 0, 0, 4, 0),
        (0, 0, 4, 4, 4),
        (0, 0, 8, 2, 8),
        (1, 1, 0, 2, 10),
    ]
    assert [chunk.rows for chunk in first_rows(cut, 7)] == [4, 3]
    assert first_rows(cut, 99) == cut


@pytest.mark.parametrize("max_rows", [1, 3, 5, 8, 100])
@pytest.mark.parametrize("limit", [0, 1, 13, 100])
def test_chunks_cover_the_first_rows_once_and_in_order(tmp_path: Path, max_rows: int, limit: int) -> None:
    for number, rows in enumerate((11, 7)):
        table = pa.table({"row": range(100 * number, 100 * number + rows)})
        pq.write_table(table, tmp_path / f"part-{number}.parquet", row_group_size=4)
    (tmp_path / "part-0.parquet.1234.tmp").write_bytes(b"of an interrupted write")
    chunks = list_chunks(str(tmp_path), max_rows=max_rows, limit=limit)
    found = [value for chunk in chunks for value in read_chunk(chunk)["row"].to_pylist()]
    everything = [*range(11), *range(100, 107)]
    assert found == (everything[:limit] if limit else everything)
    assert all(chunk.rows <= max_rows for chunk in chunks)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"part-0\.parquet is damaged or no Parquet file"):
        list_chunks(str(tmp_path), max_rows=4)


def test_drop_rows_leaves_out_the_seen() -> None:
    table = pa.table({"image_id": ["a", "b", "c"], "row": [0, 1, 2]})
    seen = np.array([image_key("b"), image_key("z")])
    assert drop_rows(table, seen=seen)["row"].to_pylist() == [0, 2]
    assert drop_rows(table, seen=np.array([], dtype=np.int64)).num_rows == 3


def test_references_and_what_is_missing(tmp_path: Path) -> None:
    path = str(write_prepared(tmp_path / "rows", train=5, val=3))
    references = read_references(path, "val", limit=2)
    assert [reference.image_id for reference in references.values()] == ["val-000", "val-001"]
    assert list(references) == [image_key("val-000"), image_key("val-001")]
    assert [reference.captions for reference in references.values()] == captions_of(8)[5:7]
    assert read_data_manifest(path).counts == {"train": 5, "val": 3, "test": 0}
    with pytest.raises(ConfigError, match=r"no images of split 'test' .* train, val"):
        split_chunks(path, "test", limit=0, max_rows=8)
    with pytest.raises(ConfigError, match="raycap prepare"):
        read_data_manifest(str(tmp_path / "nowhere"))


def test_collate_packs_every_caption_of_every_image(tiny_language_model: str) -> None:
    tokenizer = CaptionTokenizer.load(tiny_language_model)
    captions = [*captions_of(2, per_image=3), captions_of(3, per_image=1)[2]]
    features = np.arange(3 * 5 * 4, dtype=np.float16).reshape(3, 5, 4)
    features.flags.writeable = False  # as a block in Ray's memory
    texts = np.empty(3, dtype=object)
    texts[:] = [np.array(of_image, dtype=object) for of_image in captions]
    batch = CaptionCollate(tokenizer, max_tokens=30)(
        {"image_id": np.array(["a", "b", "c"]), "features": features, "captions": texts}
    )
    assert all(isinstance(value, torch.Tensor) for value in batch.values())
    assert torch.equal(batch["features"], torch.from_numpy(features.copy()))
    assert batch["features"].dtype == torch.float16
    assert batch["image_key"].tolist() == [image_key(name) for name in "abc"]
    rows = unpack(batch, fill_id=tokenizer.end_id)
    assert rows.image_index.tolist() == [0, 0, 0, 1, 1, 1, 2]
    labels = [row[row != IGNORE_INDEX].tolist() for row in rows.labels]
    assert [tokenizer.decode(row) for row in labels] == [text for of_image in captions for text in of_image]
    assert all(row[-1] == tokenizer.end_id for row in labels)


def test_collate_cuts_long_captions(tiny_language_model: str) -> None:
    tokenizer = CaptionTokenizer.load(tiny_language_model)
    texts = np.empty(1, dtype=object)
    texts[:] = [np.array(["A red dog on a hill. " * 20], dtype=object)]
    batch = CaptionCollate(tokenizer, max_tokens=6)(
        {"image_id": np.array(["a"]), "features": np.zeros((1, 2, 2), np.float16), "captions": texts}
    )
    assert batch["input_ids"].shape == (1, 7)
    assert tokenizer.end_id not in batch["labels"][0].tolist()


def test_collate_takes_a_photo_or_its_mirror_image(tiny_language_model: str) -> None:
    """Half of each in an epoch, others in the next, the same ones whatever the batch."""
    collate = CaptionCollate(CaptionTokenizer.load(tiny_language_model), max_tokens=6)
    captions = np.empty(200, dtype=object)
    captions[:] = [np.array(["A dog."], dtype=object)] * 200
    rows = {
        "image_id": np.array([str(number) for number in range(200)]),
        "features": np.zeros((200, 2, 3), np.float16),
        "mirrored": np.ones((200, 2, 3), np.float16),
        "captions": captions,
    }
    epochs = [collate.at(epoch)(rows)["features"][:, 0, 0].tolist() for epoch in range(3)]
    assert [sum(epoch) for epoch in epochs] == pytest.approx([100] * 3, abs=20)
    same = [sum(a == b for a, b in zip(epochs[0], other, strict=True)) for other in epochs[1:]]
    assert same == pytest.approx([100] * 2, abs=20)
    captions[0] = np.array(["A dog.", "A dog on the Left."], dtype=object)
    assert not any(collate.at(epoch)(rows)["features"][0].any() for epoch in range(8))  # it would be false
    part = {name: values[50:60] for name, values in rows.items()}
    assert collate.at(2)(part)["features"][:, 0, 0].tolist() == epochs[2][50:60]


def config_of(path: Path, encoder: str, *, limit: int = 0, **settings: object) -> FeaturizeConfig:
    return FeaturizeConfig(
        data=DataConfig(path=str(path), limit=limit),
        encoder=EncoderConfig.model_validate({"name": encoder, **settings}),
        featurize=FeaturizeOptions(output=str(path.parent / "features")),
    )


def test_the_folder_is_keyed_by_all_that_features_depend_on(tmp_path: Path, tiny_encoder: str) -> None:
    rows = write_prepared(tmp_path / "rows", train=3, val=1)
    config = config_of(rows, tiny_encoder)
    folders = [features_folder(config), features_folder(config_of(rows, tiny_encoder, limit=2))]
    folders += [features_folder(config_of(rows, tiny_encoder, layer=1))]
    folders += [features_folder(config_of(rows, tiny_encoder, dtype="bfloat16"))]
    manifest = rows / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": "other rows"}))
    folders += [features_folder(config)]
    assert len(set(folders)) == 5
    moved = shutil.copytree(tiny_encoder, tmp_path / "encoder moved")
    assert features_folder(config_of(rows, str(moved))) == folders[-1]
    faster = FeaturizeOptions(output=config.featurize.output, batch_size=3, num_encoders=2)
    assert features_folder(config.model_copy(update={"featurize": faster})) == folders[-1]


def ids(numbers: range) -> pa.Table:
    return pa.table({"image_id": [f"train-{number:03}" for number in numbers]})


def test_the_plan_knows_what_is_done_and_what_is_wrong(tmp_path: Path, tiny_encoder: str) -> None:
    rows = write_prepared(tmp_path / "rows", train=10, val=3)
    config = config_of(rows, tiny_encoder)
    folder = tmp_path / "made"
    (folder / "train").mkdir(parents=True)
    pq.write_table(ids(range(4, 8)), folder / "train" / "part-00001.parquet", row_group_size=3)
    (folder / "train" / "part-00002.parquet").write_bytes(b"damaged")
    (folder / "train" / "part-00002.parquet.12ab.tmp").write_bytes(b"")
    work = plan(config, str(folder), chunk_rows=4)
    assert [(item.split, item.chunk.rows, item.done) for item in work] == [
        ("train", 4, False),
        ("train", 4, True),
        ("train", 2, False),
        ("val", 3, False),
    ]
    limited = plan(config_of(rows, tiny_encoder, limit=5), str(folder), chunk_rows=4)
    assert [item.chunk.rows for item in limited] == [4, 1, 3]
    (rows / "manifest.json").write_text(json.dumps({"fingerprint": "x", "counts": {"train": 11, "val": 3}}))
    with pytest.raises(ConfigError, match="counts 11 images of train and its files hold 10"):
        plan(config, str(folder), chunk_rows=4)
    assert read_feature_manifest(str(folder)) is None


def test_files_made_of_other_chunks_are_made_again(tmp_path: Path, tiny_encoder: str) -> None:
    """Files of a run that stopped, made before `prepare` cut the same rows into other files, were kept by their
    names alone: images stood twice in the features, others not at all."""
    rows = write_prepared(tmp_path / "rows", train=10, val=3)
    folder = tmp_path / "made"
    (folder / "train").mkdir(parents=True)
    for index, start in enumerate((0, 4, 8)):
        part = folder / "train" / f"part-{index:05}.parquet"
        pq.write_table(ids(range(start, min(start + 4, 10))), part)
    config = config_of(rows, tiny_encoder)
    assert [item.done for item in plan(config, str(folder), chunk_rows=4)] == [True, True, True, False]
    whole = rows / "train" / "part-00000.parquet"
    table = pq.read_table(whole)
    pq.write_table(table.slice(0, 6), whole)
    pq.write_table(table.slice(6), rows / "train" / "part-00001.parquet")
    work = plan(config, str(folder), chunk_rows=4)
    assert [(item.chunk.rows, item.done) for item in work] == [(4, True), (2, False), (4, False), (3, False)]
    pq.write_table(table.take(pa.array([1, 0, *range(2, 10)])), whole)  # another order
    (rows / "train" / "part-00001.parquet").unlink()
    work = plan(config, str(folder), chunk_rows=4)
    assert [item.done for item in work] == [False, True, True, False]
    assert other_files(str(folder), work[:2]) == [str(folder / "train" / "part-00002.parquet")]


def test_the_first_rows_have_a_folder_by_their_files_too(tmp_path: Path, tiny_encoder: str) -> None:
    """In another order the first rows are others, under the same fingerprint and limit."""
    rows = write_prepared(tmp_path / "rows", train=3, val=1)
    manifest = rows / "manifest.json"
    content = json.loads(manifest.read_text())
    for limit, folders in ((0, 1), (2, 2)):
        found = set()
        for size in (10, 11):
            manifest.write_text(json.dumps({**content, "files": {"train/part-00000.parquet": size}}))
            found.add(features_folder(config_of(rows, tiny_encoder, limit=limit)))
        assert len(found) == folders


def test_encoders_on_gpus_that_an_autoscaler_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only GPUs already there were looked at, so a cluster whose GPU nodes come from zero encoded on CPUs."""
    limits = {"CPU": 40, "GPU": 8}
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(
        "ray._private.state.state.get_max_resources_from_cluster_config", lambda: limits, raising=True
    )
    assert choose_encoders(FeaturizeOptions()) == Pool("cuda", 1, 1.0, 1)
    assert choose_engines(EvaluateOptions(gpus_per_engine=0.5)) == Pool("cuda", 1, 0.5, 1)
    limits.clear()
    assert choose_encoders(FeaturizeOptions(device="cpu")).device == "cpu"
    with pytest.raises(ConfigError, match=r"featurize\.gpus_per_encoder=1 GPUs and the cluster has 0"):
        choose_encoders(FeaturizeOptions(device="cuda"))


def test_finished_features_are_said_on_stderr(
    tmp_path: Path, tiny_encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was logged below the level that anyone sees."""
    config = config_of(write_prepared(tmp_path / "rows", train=2, val=1), tiny_encoder)
    folder = features_folder(config)
    manifest = FeatureManifest(
        raycap="0", data="d", data_fingerprint="f", limit=0, encoder={}, encoder_fingerprint="e", patches=1,
        vision_dim=1, counts={}, files={},
    )  # fmt: skip
    Path(folder).mkdir(parents=True)
    (Path(folder) / "manifest.json").write_text(manifest.model_dump_json())
    assert featurize(config) == folder
    assert capsys.readouterr().err == f"features are already made: {folder}\n"


@pytest.mark.parametrize(("side", "rows"), [(32, 256), (224, 192), (336, 96), (518, 32)])
def test_chunks_stay_small_in_memory(side: int, rows: int) -> None:
    ones = (1.0, 1.0, 1.0)
    preprocess = Preprocessor(0, (side, side), (0, 0), 3, scale=ones, shift=ones)
    assert chunk_rows_of(preprocess, batch_size=32) == rows
    assert rows * 3 * side * side <= 32 << 20


@pytest.mark.parametrize(("batch_size", "rows"), [(8, 216), (100, 200), (256, 256), (1000, 1000)])
def test_a_chunk_holds_whole_batches(batch_size: int, rows: int) -> None:
    """A chunk of 192 photos was cut to fit memory, so that featurize.batch_size=256 was never reached."""
    preprocess = Preprocessor(0, (224, 224), (0, 0), 3, scale=(1.0,) * 3, shift=(1.0,) * 3)
    assert chunk_rows_of(preprocess, batch_size=batch_size) == rows
