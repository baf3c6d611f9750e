"""`raycap serve`: `serve run` that ends without cutting off an answer.

Serve stops a deployment and those it calls at the same time, and kills its proxies first. So the ingresses are closed
and emptied before Serve is told to stop.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from raycap import storage
from raycap.config import ConfigError, describe_validation_error
from raycap.data import start_ray

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

RUNNING, FAILED = "RUNNING", ("DEPLOY_FAILED", "UNHEALTHY")
INGRESS = "Ingress"  # the name of raycap.serve's deployment that faces HTTP
POLL_S = 0.1
CLOSE_S = 5.0  # for an ingress to say how many requests it has; one that does not is not waited for
HANDED_ON_S = 1.0  # for the proxies to send what the ingresses answered last


def serve(config: str = "", /, *, checkpoint: str = "") -> None:
    """Serve a checkpoint over HTTP: `serve run` that also ends well. SIGTERM and Ctrl-C answer what was accepted,
    refuse the rest with 503 and exit with 0; a second one ends at once.

    Parameters
    ----------
    config
        The application, its deployments and their limits; by default serve_config.yaml here, else raycap's own.
    checkpoint
        A run folder, RUN/best-loss, RUN/last, a checkpoint folder, or an s3://, gs:// or hf:// place; by default
        RAYCAP_CHECKPOINT, else what the file names.
    """
    config = config or default_config()
    document = read_config(config)
    if checkpoint:
        os.environ["RAYCAP_CHECKPOINT"] = storage.absolute(checkpoint)
    check_applications(document)
    start_ray()
    from click import Abort
    from ray.serve.scripts import cli

    _on_signals(stop)
    try:
        cli(["run", "--non-blocking", config], standalone_mode=False)
    except Abort:  # stopped before there was anything to stop
        sys.exit()
    wait_until_running()
    http = document.get("http_options", {})
    address = f"http://{http.get('host', 'localhost')}:{http.get('port', 8000)}/"
    print(f"serving at {address} (Ctrl-C or SIGTERM drains and ends)", flush=True)
    while True:
        signal.pause()


def default_config() -> str:
    """serve_config.yaml of the working folder where there is one, else the one that is installed with raycap."""
    here = Path("serve_config.yaml")
    return str(here if here.is_file() else files("raycap") / "serve" / here)


def read_config(path: str) -> dict[str, Any]:
    """The file, as far as Serve's own schema goes.

    Raises:
        ConfigError: not there, no YAML, or not what Serve takes.
    """
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        ServeDeploySchema.model_validate(document)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"no such file: {path}; give the path of a serve_config.yaml") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_validation_error(error)}") from None
    found: dict[str, Any] = document
    return found


def check_applications(document: dict[str, Any]) -> None:
    """Build raycap's applications here too: what is wrong with them is then said in one sentence, at once.

    Raises:
        ConfigError, CheckpointError: as raycap.serve.build_app.
    """
    from raycap.serve import ServeConfig, build_app

    for application in document["applications"]:
        if application["import_path"] == "raycap.serve:build_app":
            build_app(ServeConfig.model_validate(application.get("args", {})))


def wait_until_running() -> None:
    """Returns when every application runs; ends the process where one cannot be started."""
    from ray import serve

    while True:
        applications = serve.status().applications
        for name, application in applications.items():
            if application.status in FAILED:
                reasons = [deployment.message for deployment in application.deployments.values()]
                reason = " ".join([application.message, *reasons]).strip().splitlines()[-1]
                serve.shutdown()
                fail(f"{name} cannot be started: {reason}")
        if applications and all(found.status == RUNNING for found in applications.values()):
            return
        time.sleep(POLL_S)


def fail(message: str) -> NoReturn:
    """Say what went wrong and exit."""
    print(f"raycap: {message}", file=sys.stderr)
    sys.exit(1)


def stop(number: int, frame: FrameType | None) -> None:
    """Empty the ingresses, then end Serve and this process."""
    _on_signals(_exit_at_once)
    from ray import serve

    for name, application in serve.status().applications.items():
        ingress = application.deployments.get(INGRESS)
        if ingress and ingress.replica_states.get("RUNNING"):
            _empty(serve.get_deployment_handle(INGRESS, name))
    serve.shutdown()
    sys.exit()


def _empty(ingress: "DeploymentHandle[Any]") -> None:
    """Close a deployment's ingresses and wait for their last answers; a request ends by its deadline at the latest."""
    from ray.serve.exceptions import RayServeException

    try:
        while any(_inside(ingress)):
            time.sleep(POLL_S)
    except (RayServeException, TimeoutError):  # none is left, or one hangs
        return
    time.sleep(HANDED_ON_S)


def _inside(ingress: "DeploymentHandle[Any]") -> list[int]:
    """Open requests of each ingress that lives."""
    answers = ingress.broadcast("close").results(timeout_s=CLOSE_S, return_exceptions=True)
    return [answer for answer in answers if isinstance(answer, int)]


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
