"""`raycap push` against a stand-in of the hub: verified first, private unless asked, one commit, resumed, read back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, running
from small_run import make_run

from raycap import checkpoint, push
from raycap.checkpoint import CheckpointError
from raycap.cli import main
from raycap.config import ConfigError
from raycap.export import ExportConfig, Record, export, verify_export
from raycap.push import PushConfig, PushError

# huggingface_hub 2.4 hands a file to httpx2 in a way that httpx2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    for form in ("plain", "adapter"):
        output = str(run.parent / "exported" / form)
        export(str(run), ExportConfig(output=output, form="adapter" if form == "adapter" else "transformers"))
    return run.parent / "exported"


@pytest.fixture
def plain(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "plain", tmp_path / "plain"))


@pytest.fixture
def adapter(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "adapter", tmp_path / "adapter"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub()) as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(  # made of ENDPOINT at import
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub


def test_a_folder_arrives_whole_in_one_private_commit(plain: Path, hub: Hub) -> None:
    address = push.push(str(plain), "me/captioner", PushConfig())
    assert hub.private == {"me/captioner": True}
    [(commit, files)] = hub.commits["me/captioner"]
    assert address == f"{hub.url}/me/captioner/commit/{commit}"
    card = files.pop("README.md").decode()
    own = {path.relative_to(plain).as_posix(): path.read_bytes() for path in plain.rglob("*")}
    own_card = own.pop("README.md").decode()
    assert files == own
    assert "\n# me/captioner\n" in card
    assert 'folder = "me/captioner"\n' in card
    assert 'folder = "plain"\n' in own_card
    assert len(hub.uploads) == 2  # weights and tokenizer


def test_a_run_is_exported_first_and_public_if_asked(run: Path, hub: Hub) -> None:
    push.push(str(run), "me/small", PushConfig(form="adapter", private=False))
    assert hub.private == {"me/small": False}
    files = hub.head("me/small")[1]
    assert {"manifest.json", "model.safetensors", "README.md", "raycap_export.json"} <= set(files)
    assert b"hf://me/small" in files["README.md"]


def test_another_form_takes_the_place_of_the_first(run: Path, plain: Path, hub: Hub) -> None:
    push.push(str(plain), "me/captioner", PushConfig())
    hub.head("me/captioner")[1].update({"picture.png": b"theirs", "scores.json": b"{}"})
    push.push(str(run), "me/captioner", PushConfig(form="adapter"))
    files = hub.head("me/captioner")[1]
    assert "manifest.json" in files
    assert "config.json" not in files
    assert files["picture.png"] == b"theirs"
    assert files["scores.json"] == b"{}"


def test_every_repository_gets_its_own_name_on_the_card(adapter: Path, hub: Hub) -> None:
    """The card was changed in the folder itself, so that the second repository's named the first."""
    renamed = adapter.rename(adapter.with_name("final"))
    before = (renamed / "README.md").read_bytes()
    for name in ("me/first", "me/second"):
        push.push(str(renamed), name, PushConfig())
        card = hub.head(name)[1]["README.md"].decode()
        assert f"# {name}\n" in card
        assert card.count(f"--checkpoint hf://{name}\n") == 2
    assert (renamed / "README.md").read_bytes() == before


def test_a_model_of_others_is_left_alone(adapter: Path, hub: Hub) -> None:
    """Every JSON and safetensors file of a repository that was no export was deleted with the push."""
    hub.private["me/theirs"] = True
    theirs = {"model.safetensors": b"x", "data/scores.json": b"{}", "README.md": b"mine"}
    hub.commits["me/theirs"] = [("1" * 40, dict(theirs))]
    with pytest.raises(
        PushError, match=r"me/theirs holds files that are no raycap export \(model\.safetensors\)"
    ):
        push.push(str(adapter), "me/theirs", PushConfig())
    assert hub.head("me/theirs")[1] == theirs


def test_what_changes_between_check_and_upload_is_not_sent(
    adapter: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify_then_change(folder: Path) -> Record:
        record = verify_export(folder)
        (folder / "manifest.json").write_text("{}")
        return record

    monkeypatch.setattr(push, "verify_export", verify_then_change)
    with pytest.raises(CheckpointError, match=r"manifest\.json has changed since it was verified"):
        push.push(str(adapter), "me/captioner", PushConfig())
    assert hub.commits == {}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "the hub refused me/captioner (HTTP 400: too large for ***)"),
        (403, "this token may not write to me/captioner; check the name, or make a token"),
        (409, "the hub refused me/captioner (HTTP 409: too large for ***); push again later"),
        (500, "the hub refused me/captioner (HTTP 500: too large for ***); push again later"),
    ],
)
def test_a_refused_commit_is_one_sentence(adapter: Path, hub: Hub, status: int, said: str) -> None:
    """Of a bad request the hub's reason was dropped, and trying again was the advice whatever the reason."""
    hub.refuse_commits_with = status
    with pytest.raises(PushError) as caught:
        push.push(str(adapter), "me/captioner", PushConfig())
    assert str(caught.value).startswith(said)
    assert hub.commits == {}


@pytest.mark.parametrize(
    ("settings", "flags"),
    [({"form": "adapter"}, "--form"), ({"encoder": "x", "language_model": "y"}, "--enc")],
)
def test_settings_of_an_export_to_make_are_refused_for_one_that_is_there(
    plain: Path, hub: Hub, settings: dict[str, str], flags: str
) -> None:
    """They were ignored: --form adapter pushed the plain form that lay there."""
    with pytest.raises(ConfigError, match=f"is an export of form transformers already; leave out {flags}"):
        push.push(str(plain), "me/captioner", PushConfig.model_validate(settings))
    assert hub.calls == []


def test_the_form_that_an_export_has_may_be_said(adapter: Path, hub: Hub) -> None:
    push.push(str(adapter), "me/captioner", PushConfig(form="adapter"))
    assert len(hub.commits["me/captioner"]) == 1


def test_what_does_not_verify_is_not_sent(plain: Path, hub: Hub) -> None:
    with (plain / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x01")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has changed"):
        push.push(str(plain), "me/captioner", PushConfig())
    assert hub.calls == []


def test_a_run_that_is_damaged_is_not_sent(tmp_path: Path, hub: Hub) -> None:
    own = make_run(tmp_path / "own")
    next(own.rglob("model.safetensors")).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        push.push(str(own), "me/captioner", PushConfig())
    assert hub.calls == []


def test_an_interrupted_upload_goes_on_where_it_broke_off(plain: Path, hub: Hub) -> None:
    hub.refuse_uploads_after = 1
    with pytest.raises(PushError, match=r"broke off .*; push again: files that have arrived are not sent"):
        push.push(str(plain), "me/captioner", PushConfig())
    assert hub.commits == {}
    hub.refuse_uploads_after = 1000
    push.push(str(plain), "me/captioner", PushConfig())
    assert len(hub.uploads) == len(set(hub.uploads)) == 2
    assert len(hub.commits["me/captioner"]) == 1


def test_visibility_is_never_changed_silently(adapter: Path, hub: Hub) -> None:
    hub.private["me/captioner"] = False
    with pytest.raises(PushError, match="me/captioner is public on the hub and --private was asked for"):
        push.push(str(adapter), "me/captioner", PushConfig())
    assert hub.commits == {}


def test_no_token_is_said_before_anything_is_exported(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no token for the Hugging Face Hub; make a token .* set HF_TOKEN"):
        push.push(str(tmp_path / "nothing"), "me/captioner", PushConfig())


def test_a_wrong_token_and_a_wrong_owner_are_told_apart(
    adapter: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PushError, match="this token may not write to you/captioner"):
        push.push(str(adapter), "you/captioner", PushConfig())
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")
    with pytest.raises(PushError, match="the hub does not know this token") as caught:
        push.push(str(adapter), "me/captioner", PushConfig())
    assert "hf_wrong_one" not in str(caught.value)


def test_no_network_is_one_sentence(adapter: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushError, match=r"cannot reach http://127\.0\.0\.1:9 .*; push again once"):
        push.push(str(adapter), "me/captioner", PushConfig())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE is set"):
        push.push(str(adapter), "me/captioner", PushConfig())


@pytest.mark.parametrize(
    "name",
    [
        "captioner",
        "hf://me/captioner",
        "../..",
        "me/..",
        "me/x.git",
        "me/a b",
        "a--b/c",
        "me/" + 97 * "x",
        "me/x\n",
    ],
)
def test_a_name_that_is_none_is_refused_before_all_else(hub: Hub, name: str) -> None:
    with pytest.raises(ConfigError, match="is no repository of the hub; give owner/name"):
        push.push("nowhere", name, PushConfig())
    assert hub.calls == []


def test_the_command_pushes_and_hf_reads_it_back(
    adapter: Path,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    main(["push", str(adapter), "me/captioner", "--public"])
    printed, told = capsys.readouterr()
    assert printed.strip() == f"{hub.url}/me/captioner/commit/{hub.head('me/captioner')[0]}"
    assert hub.token not in printed + told
    assert hub.private == {"me/captioner": False}
    read = checkpoint.load("hf://me/captioner").manifest
    assert read.digest == checkpoint.read_manifest(str(adapter)).digest
