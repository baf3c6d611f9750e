"""Training's reading: every row exactly once a pass, whatever the cache, the workers and the free CPUs."""

import threading
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prepared import write_prepared

from raycap.config import ConfigError, DataConfig
from raycap.data.featurize import FeaturizeConfig, FeaturizeOptions, featurize
from raycap.schema import image_key
from raycap.text import CaptionTokenizer
from raycap.vision import EncoderConfig

if TYPE_CHECKING:
    from ray.data import Dataset

pytestmark = pytest.mark.ray
TRAIN = 300  # four blocks of 64 and one of 44


@pytest.fixture(scope="module")
def made(ray_session: None, tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> FeaturizeConfig:
    """Features of 300 images, made."""
    folder = tmp_path_factory.mktemp("loading")
    config = FeaturizeConfig(
        data=DataConfig(path=str(write_prepared(folder / "rows", train=TRAIN, val=9))),
        encoder=EncoderConfig(name=tiny_encoder),
        featurize=FeaturizeOptions(output=str(folder / "features"), device="cpu", cpus_per_encoder=1),
    )
    featurize(config)
    return config


def rows_of(config: FeaturizeConfig, cache: Any, **options: Any) -> "Dataset":
    from raycap.data.loading import training_rows

    blocks = {"data": config.data, "encoder": config.encoder, "featurize": config.featurize}
    return training_rows("train", cache=cache, **blocks, **options)


@pytest.fixture
def no_free_cpu(ray_session: None) -> Iterator[None]:
    """Training workers hold every CPU of the cluster."""
    import ray

    @ray.remote(num_cpus=4)
    class Worker:
        def ready(self) -> bool:
            return True

    worker = Worker.remote()
    ray.get(worker.ready.remote())
    yield
    ray.kill(worker)


def passes(dataset: "Dataset", tokenizer: str, *, workers: int = 2, epochs: int = 3) -> list[list[list[int]]]:
    """Image keys in the order each worker met them: by epoch and worker."""
    from raycap.data.loading import CaptionCollate, WholeSplit

    collate = CaptionCollate(CaptionTokenizer.load(tokenizer), max_tokens=20)
    shards = WholeSplit().configure({"train": dataset}, workers, None, None)
    seen: list[list[list[int]]] = [[[] for _ in range(workers)] for _ in range(epochs)]

    def work(rank: int) -> None:
        for epoch in range(epochs):
            for batch in shards[rank]["train"].iter_torch_batches(
                batch_size=16,
                collate_fn=collate,
                local_shuffle_buffer_size=100,
                local_shuffle_seed=epoch,
                device="cpu",
            ):
                seen[epoch][rank] += batch["image_key"].tolist()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    return seen


def keys(numbers: range) -> list[int]:
    return sorted(image_key(f"train-{number:03}") for number in numbers)


@pytest.mark.parametrize("cache", ["object_store", "disk"])
def test_every_row_once_a_pass_while_no_cpu_is_free(
    made: FeaturizeConfig, tiny_language_model: str, cache: str, no_free_cpu: None
) -> None:
    """Ray's own split dropped rows to make shards equal, and reading starved when workers held all CPUs."""
    epochs = passes(rows_of(made, cache, shuffle_seed=5), tiny_language_model)
    for by_worker in epochs:
        assert sorted(chain(*by_worker)) == keys(range(TRAIN))
        assert abs(len(by_worker[0]) - len(by_worker[1])) <= 64
    assert epochs[0] != epochs[1] != epochs[2]
    if cache == "object_store":
        assert passes(rows_of(made, cache, shuffle_seed=5), tiny_language_model) == epochs, "not reproducible"


def test_the_rest_of_an_epoch_while_no_cpu_is_free(
    made: FeaturizeConfig, tiny_language_model: str, no_free_cpu: None
) -> None:
    from raycap.data.loading import without

    rows = rows_of(made, "object_store")
    seen = np.array(keys(range(130)))
    (rest,) = passes(without(rows, seen), tiny_language_model, epochs=1)
    assert sorted(chain(*rest)) == keys(range(130, TRAIN))
    (none,) = passes(without(rows, set(keys(range(TRAIN)))), tiny_language_model, epochs=1)
    assert none == [[], []]
    assert rows.count() == TRAIN


def test_without_a_cache_the_stream_gives_the_same_features(
    made: FeaturizeConfig, tiny_language_model: str
) -> None:
    from raycap.data.loading import streamed_features

    def by_id(dataset: "Dataset") -> dict[str, Any]:
        return {row["image_id"]: row["features"].astype(np.float32) for row in dataset.iter_rows()}

    kept = by_id(rows_of(made, "object_store"))
    streamed = by_id(rows_of(made, "none"))
    assert list(streamed) == list(kept)
    assert all(np.allclose(streamed[name], kept[name], atol=4e-3) for name in kept)

    rest = streamed_features(made, "train", shuffle_seed=2, skip=frozenset(keys(range(250))))
    epochs = passes(rest, tiny_language_model, epochs=1)
    for by_worker in epochs:
        assert sorted(chain(*by_worker)) == keys(range(250, TRAIN))


def test_cached_rows_are_small_blocks_in_the_order_of_the_data(made: FeaturizeConfig) -> None:
    rows = rows_of(made, "object_store")
    assert [
        entry.metadata.num_rows for bundle in rows.iter_internal_ref_bundles() for entry in bundle.blocks
    ] == [
        64,
        64,
        64,
        64,
        44,
    ]
    assert [row["image_id"] for row in rows.iter_rows()] == [f"train-{number:03}" for number in range(TRAIN)]
    first = rows.take(1)[0]
    assert first["features"].dtype == np.float16
    assert len(first["captions"]) == 3


def test_prepared_rows_in_order(made: FeaturizeConfig) -> None:
    from raycap.data.loading import open_rows

    rows = open_rows(made.data.path, "train", columns=["image_id", "captions"], limit=150).take_all()
    assert [row["image_id"] for row in rows] == [f"train-{number:03}" for number in range(150)]
    assert set(rows[0]) == {"image_id", "captions"}
    assert set(open_rows(made.data.path, "val").take(1)[0]) == {"image_id", "split", "image", "captions"}


def test_features_that_are_not_made_are_asked_for(made: FeaturizeConfig) -> None:
    from raycap.data.loading import required_resources

    other = FeaturizeConfig(
        data=DataConfig(path=made.data.path, limit=3), encoder=made.encoder, featurize=made.featurize
    )
    with pytest.raises(ConfigError, match="run `raycap featurize`"):
        rows_of(other, "disk")
    assert required_resources(made.featurize, "object_store") == {}
    assert required_resources(made.featurize, "none") == {"CPU": 2, "GPU": 0}
