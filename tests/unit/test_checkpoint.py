"""Checkpoints: what is saved comes back, damage is named, and a run keeps the right ones."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from toy_family import ENCODER, ToyConfig, make_base, make_toy

from raycap import checkpoint, storage
from raycap.checkpoint import CheckpointError, RunCheckpoints, TrainingState
from raycap.checkpoint.manifest import digest_of
from raycap.config import ConfigError
from raycap.decoding import DecodingConfig

STATE = TrainingState(
    {"moments.bias": torch.arange(4.0), "seen": torch.tensor([7, -9_000_000_000])}, {"step": 12, "scale": 0.1}
)

VOCABULARY = [0, 3, 5]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ToyConfig:
    return make_base(tmp_path_factory.mktemp("base"))


def save(
    folder: Path | str, config: ToyConfig, *, seed: int = 0, training: TrainingState | None = STATE
) -> str:
    return checkpoint.save(
        str(folder),
        make_toy(config, seed=seed),
        model_config=config,
        tokenizer=config.load_tokenizer(),
        encoder=ENCODER,
        decoding=DecodingConfig(beams=5),
        metrics={"val_loss": 2.5},
        step=12,
        epoch=1,
        vocabulary=VOCABULARY,
        training=training,
    )


def save_step(run: RunCheckpoints, config: ToyConfig, step: int, **metrics: float) -> str:
    return run.save_step(
        make_toy(config, seed=step),
        model_config=config,
        tokenizer=config.load_tokenizer(),
        encoder=ENCODER,
        decoding=DecodingConfig(),
        metrics=metrics,
        step=step,
        epoch=0,
    )


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_everything_comes_back(tmp_path: Path, base: ToyConfig) -> None:
    saved = save(tmp_path / "one", base)
    loaded = checkpoint.load(saved, training=True)
    expected = make_toy(base).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert loaded.config == base
    assert loaded.manifest.encoder == ENCODER
    assert loaded.manifest.decoding == DecodingConfig(beams=5)
    assert (loaded.manifest.step, loaded.manifest.epoch, loaded.manifest.metrics) == (
        12,
        1,
        {"val_loss": 2.5},
    )
    assert loaded.vocabulary == tuple(VOCABULARY)
    assert loaded.tokenizer.encode(["A red dog."], max_tokens=9) == base.load_tokenizer().encode(
        ["A red dog."], max_tokens=9
    )
    assert loaded.training is not None
    assert loaded.training.values == STATE.values
    assert {name: t.tolist() for name, t in loaded.training.tensors.items()} == {
        name: t.tolist() for name, t in STATE.tensors.items()
    }


def test_only_trained_weights_are_stored(tmp_path: Path, base: ToyConfig) -> None:
    saved = Path(save(tmp_path / "one", base, training=None))
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {"manifest.json", "model.safetensors"} <= files
    assert "training.safetensors" not in files
    from safetensors.torch import load_file

    assert set(load_file(saved / "model.safetensors")) == {"bias", "project.weight"}


def test_restore_fills_a_model_already_built(tmp_path: Path, base: ToyConfig) -> None:
    saved = save(tmp_path / "one", base, seed=3)
    model = make_toy(base, seed=4)
    manifest, state = checkpoint.restore(saved, model)
    assert torch.equal(model.bias, make_toy(base, seed=3).bias)
    assert manifest.step == 12
    assert state is not None
    assert state.values == STATE.values


def test_verify_accepts_a_whole_checkpoint_and_ignores_strangers(tmp_path: Path, base: ToyConfig) -> None:
    saved = save(tmp_path / "one", base)
    (Path(saved) / "notes.txt").write_text("mine")
    assert checkpoint.verify(saved).step == 12


def files_of(saved: str) -> list[str]:
    return ["manifest.json", *checkpoint.read_manifest(saved).files]


def test_every_kind_of_damage_to_every_file_is_named(tmp_path: Path, base: ToyConfig) -> None:
    whole = save(tmp_path / "whole", base)
    assert len(files_of(whole)) >= 6  # manifest, weights, training state (2), tokenizer (2 or more)
    for name in files_of(whole):
        for kind in ("flipped", "cut", "missing", "empty"):
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            file = copy / name
            if kind == "flipped":
                damage(file)
            elif kind == "cut":
                file.write_bytes(file.read_bytes()[:-3])
            elif kind == "empty":
                file.write_bytes(b"")
            else:
                file.unlink()
            with pytest.raises(CheckpointError) as caught:
                checkpoint.load(str(copy))
            assert str(file) in str(caught.value), (name, kind)
            shutil.rmtree(copy)


def test_a_changed_manifest_is_noticed(tmp_path: Path, base: ToyConfig) -> None:
    saved = Path(save(tmp_path / "one", base))
    content = json.loads((saved / "manifest.json").read_text())
    content["metrics"]["val_loss"] = 0.1
    (saved / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not match its own digest"):
        checkpoint.verify(str(saved))


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path, base: ToyConfig) -> None:
    save(tmp_path / "one", base, seed=0)
    save(tmp_path / "one", base, seed=1, training=None)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    loaded = checkpoint.load(str(tmp_path / "one"), training=True)
    assert torch.equal(loaded.model.state_dict()["bias"], make_toy(base, seed=1).bias)
    assert loaded.training is None


def test_a_write_that_dies_leaves_no_checkpoint(
    tmp_path: Path, base: ToyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    run = RunCheckpoints(str(tmp_path))
    save_step(run, base, 10)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "publish_folder", die)
        with pytest.raises(KeyboardInterrupt):
            save_step(run, base, 20)
    assert run.newest_valid() == str(tmp_path / "checkpoints/step-00000010")
    save_step(run, base, 30)
    assert names(tmp_path) == ["step-00000010", "step-00000030"]


def test_another_base_model_is_refused(tmp_path: Path, base: ToyConfig) -> None:
    saved = save(tmp_path / "one", base)
    other = make_base(tmp_path / "other", values=(0.5, -0.25, 0.5, 1.0))
    with pytest.raises(CheckpointError, match="is not the one this checkpoint was trained on"):
        checkpoint.load(saved, language_model=other.language_model)


def test_a_moved_base_model_is_found_by_override(tmp_path: Path) -> None:
    config = make_base(tmp_path / "base")
    saved = save(tmp_path / "one", config)
    (tmp_path / "base").rename(tmp_path / "moved")
    loaded = checkpoint.load(saved, language_model=str(tmp_path / "moved"))
    assert torch.equal(loaded.model.state_dict()["base"], torch.tensor([0.5, -0.25, 0.125, 1.0]))


def test_folders_are_recorded_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_base(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    saved = save("one", ToyConfig(language_model="base"))
    monkeypatch.chdir("/")
    assert checkpoint.load(saved).config == config


def test_an_override_the_family_does_not_have_is_refused(
    tmp_path: Path, base: ToyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyConfig, "model_dump", lambda *_, **__: {"family": "toy"})
    saved = save(tmp_path / "one", base)
    with pytest.raises(ConfigError, match="no language model to replace"):
        checkpoint.load(saved, language_model="elsewhere")


def test_a_run_keeps_best_loss_best_metric_and_the_last_two(tmp_path: Path, base: ToyConfig) -> None:
    run = RunCheckpoints(str(tmp_path))
    save_step(run, base, 10, val_loss=2.0, cider_d=0.3)  # best loss
    save_step(run, base, 20, val_loss=2.1, cider_d=0.5)  # best metric
    save_step(run, base, 30, val_loss=2.2, cider_d=0.4)
    save_step(run, base, 35)
    save_step(run, base, 40, val_loss=float("nan"), cider_d=float("inf"))
    assert names(tmp_path) == ["step-00000010", "step-00000020", "step-00000035", "step-00000040"]
    index = json.loads((tmp_path / "checkpoints/index.json").read_text())
    assert index == {
        "metric": "cider_d",
        "last": "step-00000040",
        "best_loss": "step-00000010",
        "best_metric": "step-00000020",
    }


def test_resolve_finds_what_is_meant(tmp_path: Path, base: ToyConfig) -> None:
    run = RunCheckpoints(str(tmp_path))
    first, second, third = (
        save_step(run, base, step, **values)
        for step, values in [
            (10, {"val_loss": 2.0, "cider_d": 0.3}),
            (20, {"val_loss": 2.1, "cider_d": 0.5}),
            (30, {}),
        ]
    )
    assert checkpoint.resolve(str(tmp_path)) == second
    assert checkpoint.resolve(f"{tmp_path}/best-metric") == second
    assert checkpoint.resolve(f"{tmp_path}/best-loss") == first
    assert checkpoint.resolve(f"{tmp_path}/last") == third
    assert checkpoint.resolve(f"{tmp_path}/checkpoints") == second
    assert checkpoint.resolve(third) == third
    (tmp_path / "checkpoints/index.json").write_text("{")  # made anew from the manifests
    assert checkpoint.resolve(str(tmp_path)) == second
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere: give a run folder"):
        checkpoint.resolve(str(tmp_path / "nowhere"))


def test_without_an_index_the_runs_own_metric_decides(tmp_path: Path, base: ToyConfig) -> None:
    """A damaged index was made anew by CIDEr-D whatever metric the run was trained with."""
    run = RunCheckpoints(str(tmp_path), metric="bleu_4")
    save_step(run, base, 10, val_loss=2.0, cider_d=0.9, bleu_4=0.1)
    best = save_step(run, base, 20, val_loss=2.1, cider_d=0.5, bleu_4=0.3)
    (tmp_path / "config.yaml").write_text("train: {metric: bleu_4}")
    assert checkpoint.resolve(str(tmp_path)) == best
    (tmp_path / "checkpoints/index.json").write_text("{")
    assert checkpoint.resolve(str(tmp_path)) == best
    (tmp_path / "checkpoints/index.json").unlink()
    assert checkpoint.resolve(str(tmp_path)) == best


def test_a_strategy_decides_what_best_metric_is(tmp_path: Path, base: ToyConfig) -> None:
    run = RunCheckpoints(str(tmp_path), metric="cider-centred:bleu_4=0.05")
    save_step(run, base, 10, val_loss=2.0, cider_d=0.30, bleu_4=0.200)
    good = save_step(run, base, 20, val_loss=2.1, cider_d=0.40, bleu_4=0.195)
    save_step(run, base, 30, val_loss=2.2, cider_d=0.50, bleu_4=0.150)  # CIDEr-D alone would choose this
    (tmp_path / "config.yaml").write_text("train: {metric: cider_d, choose: 'cider-centred:bleu_4=0.05'}")
    assert checkpoint.resolve(str(tmp_path)) == good
    (tmp_path / "checkpoints/index.json").unlink()
    assert checkpoint.resolve(str(tmp_path)) == good


def test_what_was_removed_still_sets_the_bar(tmp_path: Path, base: ToyConfig) -> None:
    """Each epoch within the tolerance of the one before would let BLEU-4 fall without end."""
    run = RunCheckpoints(str(tmp_path), metric="cider-centred:bleu_4=0.05")
    for step in range(1, 9):
        save_step(run, base, step, val_loss=9.0 - step, cider_d=0.1 * step, bleu_4=0.2 * 0.97**step)
    assert run.read_index().best_metric == "step-00000002"
    assert names(tmp_path) == ["step-00000002", "step-00000007", "step-00000008"]
    newest = checkpoint.read_manifest(f"{run.folder}/step-00000008")
    assert list(newest.history) == [f"step-{step:08d}" for step in range(1, 8)]
    assert newest.history["step-00000001"] == {"val_loss": 8.0, "cider_d": 0.1, "bleu_4": 0.2 * 0.97}


def test_pareto_goes_from_epoch_to_epoch(tmp_path: Path, base: ToyConfig) -> None:
    run = RunCheckpoints(str(tmp_path), metric="pareto")
    values = [(0.3, 0.20), (0.4, 0.19), (0.35, 0.21), (0.5, 0.20), (0.34, 0.30), (0.36, 0.21)]
    for step, (cider_d, bleu_4) in enumerate(values, start=1):
        save_step(run, base, step, val_loss=1.0 + step, cider_d=cider_d, bleu_4=bleu_4)
    assert run.read_index().best_metric == "step-00000006"  # by 1, 3 and 6; each of 2, 4 and 5 fell in one


def test_a_resume_forgets_what_it_gave_up(tmp_path: Path, base: ToyConfig) -> None:
    run = RunCheckpoints(str(tmp_path))
    for step in (10, 20, 30):
        save_step(run, base, step, cider_d=0.1 * step)
    save_step(run, base, 25, cider_d=0.3)
    assert list(checkpoint.read_manifest(f"{run.folder}/step-00000025").history) == [
        "step-00000010",
        "step-00000020",
    ]


def test_a_manifest_without_history_is_read(tmp_path: Path, base: ToyConfig) -> None:
    """Checkpoints that were written before manifests had a history."""
    run = RunCheckpoints(str(tmp_path), metric="pareto")
    best = save_step(run, base, 10, cider_d=0.2, bleu_4=0.1)
    for step, cider_d in ((20, 0.3), (30, 0.1)):
        path = Path(save_step(run, base, step, cider_d=cider_d, bleu_4=0.05)) / "manifest.json"
        content = {
            name: value
            for name, value in json.loads(path.read_text()).items()
            if name not in {"history", "digest"}
        }
        path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    assert checkpoint.resolve(str(tmp_path)) == best


def test_newest_valid_passes_over_damage_with_a_warning(
    tmp_path: Path, base: ToyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunCheckpoints(str(tmp_path))
    saved = [save_step(run, base, step) for step in (10, 20)]
    damage(Path(saved[1]) / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert run.newest_valid() == saved[0]
    assert "passing over" in caplog.text
    assert "step-00000020/model.safetensors" in caplog.text
    damage(Path(saved[0]) / "manifest.json")
    assert run.newest_valid() is None


def test_what_a_resume_gave_up_goes(tmp_path: Path, base: ToyConfig) -> None:
    """A damaged checkpoint counted as one of the last two, and the good one behind it was deleted."""
    run = RunCheckpoints(str(tmp_path))
    saved = [save_step(run, base, step) for step in (10, 20)]
    damage(Path(saved[1]) / "model.safetensors")
    assert run.newest_valid() == saved[0]
    save_step(run, base, 25)
    assert names(tmp_path) == ["step-00000010", "step-00000025"]
    save_step(run, base, 15)
    assert names(tmp_path) == ["step-00000010", "step-00000015"]


def test_a_store_without_folders(base: ToyConfig) -> None:
    """Object stores have no rename: PyArrow's in-memory store stands for them."""
    import pyarrow.fs as pafs

    memory = pafs._MockFileSystem()
    original = storage.filesystem

    def mocked(path: str) -> tuple[pafs.FileSystem, str]:
        return (memory, path.removeprefix("mock://")) if path.startswith("mock://") else original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "filesystem", mocked)
        run = RunCheckpoints("mock://bucket/run")
        saved = save_step(run, base, 10, cider_d=0.2)
        save_step(run, base, 20, cider_d=0.1)
        assert checkpoint.resolve("mock://bucket/run") == saved
        loaded = checkpoint.load(saved)
        assert torch.equal(loaded.model.state_dict()["bias"], make_toy(base, seed=10).bias)
