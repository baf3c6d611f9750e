"""Features as Ray Data makes them: equal to the encoder's own, kept, continued, and never made of a bad image."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import write_prepared

from raycap.config import ConfigError, DataConfig
from raycap.data import featurize as stage
from raycap.data.chunks import list_chunks, read_chunk
from raycap.data.featurize import FeaturizeConfig, FeaturizeOptions, encoder_facts, featurize
from raycap.data.manifest import read_feature_manifest
from raycap.data.stages import tensor_column
from raycap.schema import IMAGE_SCHEMA
from raycap.vision import EncoderConfig, VisionEncoder, decode_image

pytestmark = pytest.mark.ray

# A driver of its own, which the test kills; small chunks make many files.
DRIVER = """
import sys
import ray
from raycap.data import featurize as stage
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
stage.CHUNK_ROWS = 8
stage.featurize(stage.FeaturizeConfig.model_validate_json(sys.argv[1]))
"""


def config_of(rows: Path, encoder: str, output: Path, *, limit: int = 0) -> FeaturizeConfig:
    return FeaturizeConfig(
        data=DataConfig(path=str(rows), limit=limit),
        encoder=EncoderConfig(name=encoder),
        featurize=FeaturizeOptions(output=str(output), device="cpu", batch_size=8, cpus_per_encoder=1),
    )


def contents(folder: str) -> dict[str, bytes]:
    """Every feature file's bytes by its place."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*.parquet")}


def ids_of(folder: str) -> list[str]:
    return [
        name
        for file in sorted(Path(folder).rglob("*.parquet"))
        for name in pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
    ]


def test_features_are_made_once_and_are_the_encoders_own(
    ray_session: None, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    monkeypatch.setattr(stage, "CHUNK_ROWS", 16)
    rows = write_prepared(tmp_path / "rows", train=70, val=5)
    config = config_of(rows, tiny_encoder, tmp_path / "features")
    folder = featurize(config)

    encoder = VisionEncoder(config.encoder, device="cpu")
    found = {row["image_id"]: row for row in ray.data.read_parquet(f"{folder}/train").take_all()}
    source = [
        row for chunk in list_chunks(f"{rows}/train", max_rows=99) for row in read_chunk(chunk).to_pylist()
    ]
    assert sorted(found) == [row["image_id"] for row in source]
    for row in source[::9]:
        expected = encoder.encode(encoder.preprocess(decode_image(row["image"]))[None])[0].numpy()
        made = found[row["image_id"]]
        assert (made["features"].dtype, made["features"].shape) == (np.float16, (17, 24))
        assert np.allclose(made["features"].astype(np.float32), expected, atol=4e-3)
        assert list(made["captions"]) == row["captions"]

    manifest = read_feature_manifest(folder)
    assert manifest is not None
    assert manifest.counts == {"train": 70, "val": 5, "test": 0}
    assert [file.rows for file in manifest.files["train"]] == [16, 16, 16, 16, 6]
    facts = encoder_facts(config)
    assert (facts.fingerprint, facts.patches, facts.vision_dim) == (encoder.fingerprint, 17, 24)

    monkeypatch.setattr(stage, "run_graph", None)  # the same request must not get this far
    assert featurize(config) == folder


def test_mirror_images_of_the_training_photos(ray_session: None, tiny_encoder: str, tmp_path: Path) -> None:
    rows = write_prepared(tmp_path / "rows", train=10, val=2)
    plain = config_of(rows, tiny_encoder, tmp_path / "features")
    options = plain.featurize.model_copy(update={"mirror": True})
    config = plain.model_copy(update={"featurize": options})
    assert stage.features_folder(plain) != stage.features_folder(config)
    folder = Path(featurize(config))

    encoder = VisionEncoder(config.encoder, device="cpu")
    (chunk,) = list_chunks(str(folder / "train"), max_rows=99)[:1]
    made = read_chunk(chunk)
    photos = read_chunk(list_chunks(f"{rows}/train", max_rows=99)[0])
    for index in (0, len(made) - 1):
        pixels = encoder.preprocess(decode_image(photos["image"][index].as_py()))
        for column, seen in (("features", pixels), ("mirrored", pixels[:, :, ::-1].copy())):
            expected = encoder.encode(seen[None])[0].numpy()
            found = tensor_column(made, column)[index]
            assert np.allclose(found.astype(np.float32), expected, atol=4e-3), column
    assert "mirrored" not in read_chunk(list_chunks(str(folder / "val"), max_rows=9)[0]).column_names


def test_an_interrupted_run_goes_on_from_its_files(
    ray_session: None, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "CHUNK_ROWS", 8)
    rows = write_prepared(tmp_path / "rows", train=40, val=5)
    config = config_of(rows, tiny_encoder, tmp_path / "features")
    folder = Path(featurize(config))
    whole = contents(str(folder))
    kept = folder / "train" / "part-00001.parquet"
    before = kept.stat().st_mtime_ns
    (folder / "manifest.json").unlink()
    (folder / "train" / "part-00003.parquet").unlink()
    (folder / "val" / "part-00000.parquet").unlink()
    (folder / "val" / "part-00000.parquet.0123abcd.tmp").write_bytes(b"half")
    assert featurize(config) == str(folder)
    assert contents(str(folder)) == whole
    assert kept.stat().st_mtime_ns == before, "a finished file was made again"
    assert not list(folder.rglob("*.tmp"))


def test_a_limit_has_a_folder_of_its_own(ray_session: None, tiny_encoder: str, tmp_path: Path) -> None:
    rows = write_prepared(tmp_path / "rows", train=12, val=3)
    limited = featurize(config_of(rows, tiny_encoder, tmp_path / "features", limit=4))
    assert ids_of(limited) == [*(f"train-{n:03}" for n in range(4)), *(f"val-{n:03}" for n in range(3))]


def test_a_bad_image_stops_the_run_and_is_named(ray_session: None, tiny_encoder: str, tmp_path: Path) -> None:
    rows = write_prepared(tmp_path / "rows", train=6, val=2)
    file = rows / "train" / "part-00000.parquet"
    damaged = pq.read_table(file).to_pylist()
    damaged[4]["image"] = damaged[4]["image"][:200]
    pq.write_table(pa.Table.from_pylist(damaged, schema=IMAGE_SCHEMA), file)
    config = config_of(rows, tiny_encoder, tmp_path / "features")
    with pytest.raises(
        ValueError, match=r"^image 'train-004' in .*part-00000.parquet cannot be read"
    ) as error:
        featurize(config)
    assert "\n" not in str(error.value)
    assert read_feature_manifest(stage.features_folder(config)) is None


def test_too_many_encoders_for_the_cluster(ray_session: None) -> None:
    """Encoders on every CPU would wait for ever for an image to be decoded."""
    with pytest.raises(ConfigError, match="leave none of the cluster's 4 to decode"):
        stage.choose_encoders(FeaturizeOptions(device="cpu", num_encoders=2, cpus_per_encoder=2))


@pytest.mark.slow
def test_killed_in_the_middle_then_run_again(
    ray_session: None, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of the driver: what was finished is not made again, and nothing is missing, twice or different."""
    rows = write_prepared(tmp_path / "rows", train=450, val=20)
    config = config_of(rows, tiny_encoder, tmp_path / "features")
    folder = Path(stage.features_folder(config))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, config.model_dump_json()],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while len(list(folder.rglob("*.parquet"))) < 5:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # tasks in flight may still finish a file
    finished = {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
    assert 5 <= len(finished) < 59
    assert not (folder / "manifest.json").exists()

    monkeypatch.setattr(stage, "CHUNK_ROWS", 8)
    assert featurize(config) == str(folder)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert sorted(ids_of(str(folder))) == [
        *(f"train-{n:03}" for n in range(450)),
        *(f"val-{n:03}" for n in range(20)),
    ]
    assert not list(folder.rglob("*.tmp"))
    undisturbed = featurize(config_of(rows, tiny_encoder, tmp_path / "undisturbed"))
    assert contents(undisturbed) == contents(str(folder))
