"""`raycap push`: an export to the Hugging Face Hub, verified before a byte of it leaves.

The token comes from the environment (HF_TOKEN, or what `hf auth login` keeps) and is never printed. All files arrive in
one commit, so that the repository is never half new; files that an interrupted upload has sent are not sent again.
What lies in a repository already stays, but for an earlier export's files and README.md.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from raycap import checkpoint, storage
from raycap.checkpoint import CheckpointError
from raycap.config import ConfigError, Frozen
from raycap.export import CARD, RECORD, ExportConfig, Form, Record, export, read_record, verify_export
from raycap.export.card import renamed

NAME = re.compile(r"[\w.-]+/[\w.-]+")
MAY_PASS = {408, 409, 412, 429}  # another commit came between, or too many requests
HOW = "make a token with write permission at huggingface.co/settings/tokens and set HF_TOKEN to it"


class PushError(ValueError):
    """The hub did not take it; the message says why, and what to do."""


class PushConfig(Frozen):
    """How an export goes to the hub."""

    private: Annotated[bool, Parameter(negative="--public")] = True
    """Whether a new repository is private; one that exists must be what is asked for."""
    form: Form = "transformers"
    """Of a run or a checkpoint, which is exported first: transformers or adapter. An exported folder has its own."""
    encoder: str = ""
    """Of a run or a checkpoint: where the image encoder lies now, if it has moved since training."""
    language_model: str = ""
    """Of a run or a checkpoint: where the language model lies now, if it has moved since training."""


def push(source: str, repository: str, config: PushConfig) -> str:
    """Upload an export, or an export made of a run or checkpoint; returns the commit's address.

    Raises:
        CheckpointError: the folder is damaged, or does not say what it said when it was exported.
        ConfigError: a bad name, or no token.
        PushError: the hub cannot be reached, or refuses, or the repository holds something else.
    """
    _check_name(repository)
    token = _find_token()
    with _exported(source, repository, config) as folder:
        record = verify_export(folder)
        return _upload(folder, record, repository, private=config.private, token=token)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        if not NAME.fullmatch(repository):
            raise HFValidationError("one owner and one name, of letters, digits, '-', '_' and '.'")
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"{repository!r} is no repository of the hub; give owner/name ({error})") from None


def _find_token() -> str:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise PushError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it to push")
    token = get_token()
    if not token:
        raise ConfigError(f"no token for the Hugging Face Hub; {HOW}")
    return token


@contextmanager
def _exported(source: str, repository: str, config: PushConfig) -> Iterator[Path]:
    """The export in `source`, or one made of the checkpoint there for as long as it is needed.

    Raises:
        ConfigError: settings of an export to make, where one is there.
    """
    wanted = config.model_dump(include={"form", "encoder", "language_model"}, exclude_defaults=True)
    if storage.is_local(source) and (Path(storage.absolute(source)) / RECORD).is_file():
        folder = Path(storage.absolute(source))
        form = read_record(folder).form
        if ignored := wanted.keys() - ({"form"} if form == config.form else set()):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(ignored))
            raise ConfigError(
                f"{source} is an export of form {form} already; leave out {flags}, or name the run"
            )
        yield folder
        return
    checkpoint.resolve(source)  # says what `source` may be before a folder is made
    with tempfile.TemporaryDirectory(prefix="raycap-") as temporary:
        output = str(Path(temporary, repository.partition("/")[2]))
        yield Path(export(source, ExportConfig(output=output, **wanted)))


def _upload(folder: Path, record: Record, repository: str, *, private: bool, token: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        _check_visibility(bool(api.repo_info(repository).private), repository, private=private)
        stale = _files_to_replace(api, repository, record) - set(record.files)
        operations = _operations(folder, record, repository, stale=stale)
        commit = api.create_commit(repository, operations, commit_message="Upload a raycap export")
    except HfHubHTTPError as error:
        message = error.server_message or str(error)
        raise PushError(_refusal(error.response.status_code, repository, message, token)) from None
    except (HTTPError, ConnectionError) as error:
        raise PushError(
            f"cannot reach {api.endpoint} ({_clean(error, token)}); push again once it can be reached: files that "
            "have arrived are not sent again"
        ) from None
    except (RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        raise PushError(
            f"the upload to {repository} broke off ({_clean(cause, token)}); push again: files that have arrived are "
            "not sent again"
        ) from None
    return str(commit.commit_url)


def _files_to_replace(api: Any, repository: str, record: Record) -> set[str]:
    """The files there that an earlier export is made of.

    Raises:
        PushError: files of others stand where this export's would.
    """
    present = set(api.list_repo_files(repository))
    earlier: set[str] = set()
    if RECORD in present:
        with tempfile.TemporaryDirectory(prefix="raycap-") as temporary:
            api.hf_hub_download(repository, RECORD, local_dir=temporary)
            earlier = set(read_record(Path(temporary)).files) & present
    if others := sorted((present & set(record.files)) - earlier):
        raise PushError(
            f"{repository} holds files that are no raycap export ({others[0]}), so nothing was sent; "
            "name another repository, or take them away there"
        )
    return earlier


def _operations(folder: Path, record: Record, repository: str, *, stale: set[str]) -> list[Any]:
    """One commit's worth: the verified files, record and card, and the end of what an earlier export leaves over.

    Raises:
        CheckpointError: a file has changed since it was verified.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
    for name, entry in record.files.items():
        operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name))
        if operations[-1].upload_info.sha256.hex() != entry.sha256:
            raise CheckpointError(f"{folder / name} has changed since it was verified, so nothing was sent")
    operations.append(CommitOperationAdd(path_in_repo=RECORD, path_or_fileobj=folder / RECORD))
    if (folder / CARD).is_file():
        card = renamed((folder / CARD).read_text(encoding="utf-8"), record.name, repository)
        operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
    return operations


def _check_visibility(is_private: bool, repository: str, *, private: bool) -> None:
    if is_private != private:
        found, asked = ("private", "--public") if is_private else ("public", "--private")
        raise PushError(
            f"{repository} is {found} on the hub and {asked} was asked for, so nothing was sent; "
            f"take --{found}, or change it in the repository's settings"
        )


def _refusal(status: int, repository: str, message: str, token: str) -> str:
    if status == 401:
        return f"the hub does not know this token; {HOW}"
    if status in (403, 404):
        return f"this token may not write to {repository}; check the name, or {HOW}"
    refused = f"the hub refused {repository} (HTTP {status}: {_clean(message, token)})"
    return f"{refused}; push again later" if status in MAY_PASS or status >= 500 else refused


def _clean(error: object, token: str) -> str:
    """An error's first line, without the token whatever put it there."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace(token, "***")
