"""Serving with Ray Serve: `serve run serve_config.yaml`, then POST an image to /v1/caption.

An ingress translates HTTP (http/) and a captioner deployment owns the models and batches (captioning/); what
crosses between them is in contract.py.
"""

# No `from __future__ import annotations` here: Serve reads build_app's annotation to validate `args`.

import os

from ray.serve import Application

from raycap import checkpoint
from raycap.checkpoint import Manifest, hub
from raycap.config import ConfigError
from raycap.serve.captioning.replica import captioner_deployment
from raycap.serve.config import CHECKPOINT_VARIABLE, KEYS_VARIABLE, ServeConfig
from raycap.serve.http.ingress import Ingress
from raycap.serve.http.keys import key_digests
from raycap.serve.http.urls import AllowList

__all__ = ["ServeConfig", "build_app"]
HINT = (
    f"Set `checkpoint` in serve_config.yaml or {CHECKPOINT_VARIABLE} in the environment; `raycap quickstart` makes "
    "a first one"
)


def build_app(args: ServeConfig) -> Application:
    """The application that serve_config.yaml starts.

    Checkpoints are looked up here, once: all replicas serve the same ones, and a wrong path fails at once.

    Raises:
        CheckpointError: no checkpoint there, or a damaged manifest.
        ConfigError: a further model was trained over another encoder, API keys are missing or too short, or a host to
            fetch from is none.
    """
    keys = key_digests(os.environ)
    if args.require_keys and not keys:
        raise ConfigError(f"require_keys is set and {KEYS_VARIABLE} has no key where Ray runs; set it there")
    try:
        AllowList(args.fetch_hosts)
    except ValueError as error:
        raise ConfigError(f"fetch_hosts: {error}") from None
    default, manifest = _find(args.resolved_checkpoint())
    checkpoints = {args.model_name: default}
    for name, path in args.models.items():
        checkpoints[name], other = _find(path)
        checkpoint.verify(checkpoint.resolve(path))  # it is loaded much later, when somebody asks for it
        _check_encoder(name, other, manifest)
    config = args.model_dump(mode="json")
    deployment = captioner_deployment(max_loaded_models=args.max_loaded_models)
    return Ingress.bind(deployment.bind(config, checkpoints), config, keys)


def _find(path: str) -> tuple[str, Manifest]:
    try:
        folder = checkpoint.resolve(path)
        manifest = checkpoint.read_manifest(folder)
        return (hub.pin(path) if hub.is_hub(path) else folder), manifest
    except (checkpoint.CheckpointError, NotADirectoryError) as error:
        raise checkpoint.CheckpointError(f"{error}. {HINT}") from None


def _check_encoder(name: str, manifest: Manifest, default: Manifest) -> None:
    if manifest.encoder.fingerprint != default.encoder.fingerprint:
        raise ConfigError(
            f"model {name!r} was trained over the encoder {manifest.encoder.config.name}, the default one over "
            f"{default.encoder.config.name}; one deployment serves models of one encoder: deploy it on its own"
        )
