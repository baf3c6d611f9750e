"""`raycap push` against a stand-in of the hub: verified first, private unless asked, one commit, resumed, read back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import Hub, running
from small_run import make_run

from raycap import checkpoint, push
from raycap.checkpoint import CheckpointError
from raycap.config import ConfigError
from raycap.export import ExportConfig, export
from raycap.push import PushConfig, PushError

# huggingface_hub 2.4 hands a file to httpx2 in a way that httpx2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def plain(run: Path, tmp_path: Path) -> Path:
    return Path(export(str(run), ExportConfig(output=str(tmp_path / "plain"))))


@pytest.fixture
def adapter(run: Path, tmp_path: Path) -> Path:
    return Path(export(str(run), ExportConfig(output=str(tmp_path / "adapter"), form="adapter")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub()) as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub


def test_a_folder_arrives_whole_in_one_private_commit(plain: Path, hub: Hub) -> None:
    address = push.push(str(plain), "me/captioner", PushConfig())
    assert hub.private == {"me/captioner": True}
    [(commit, files)] = hub.commits["me/captioner"]
    assert address == f"{hub.url}/me/captioner/commit/{commit}"
    assert files == {path.relative_to(plain).as_posix(): path.read_bytes() for path in plain.rglob("*")}
    assert b'folder = "me/captioner"' in files["README.md"]
    assert len(hub.uploads) == 2  # weights and tokenizer


def test_a_run_is_exported_first_and_public_if_asked(run: Path, hub: Hub) -> None:
    push.push(str(run), "me/small", PushConfig(form="adapter", private=False))
    assert hub.private == {"me/small": False}
    files = hub.head("me/small")[1]
    assert {"manifest.json", "model.safetensors", "README.md", "raycap_export.json"} <= set(files)
    assert b"hf://me/small" in files["README.md"]


def test_another_form_takes_the_place_of_the_first(run: Path, plain: Path, hub: Hub) -> None:
    push.push(str(plain), "me/captioner", PushConfig())
    hub.head("me/captioner")[1]["picture.png"] = b"theirs"
    push.push(str(run), "me/captioner", PushConfig(form="adapter"))
    files = hub.head("me/captioner")[1]
    assert "manifest.json" in files
    assert "config.json" not in files
    assert files["picture.png"] == b"theirs"


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
    with pytest.raises(PushError, match=r"broke off .*; push again: what has arrived is not sent again"):
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


def test_a_name_that_is_none_is_refused(adapter: Path) -> None:
    with pytest.raises(ConfigError, match="give owner/name"):
        push.push(str(adapter), "captioner", PushConfig())


def test_the_command_pushes_and_hf_reads_it_back(adapter: Path, hub: Hub, tmp_path: Path) -> None:
    """In processes of their own, as huggingface_hub reads its settings when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": hub.token,
        "PYTHONPATH": str(Path(push.__file__).parents[1]),
    }

    def command(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    pushed = command(
        f"from raycap.cli import main; main(['push', {str(adapter)!r}, 'me/captioner', '--public'])"
    )
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{hub.url}/me/captioner/commit/{hub.head('me/captioner')[0]}"
    assert hub.token not in pushed.stdout + pushed.stderr
    assert hub.private == {"me/captioner": False}
    read = command(
        "from raycap import checkpoint; print(checkpoint.load('hf://me/captioner').manifest.digest)"
    )
    assert read.returncode == 0, read.stderr
    assert read.stdout.strip() == checkpoint.read_manifest(str(adapter)).digest
