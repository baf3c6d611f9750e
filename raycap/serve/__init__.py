"""Serving with Ray Serve: `serve run serve_config.yaml`, then POST an image to /v1/caption.

An ingress translates HTTP and a captioner deployment owns the model and batches; both are thin around plain
classes.
"""

# No `from __future__ import annotations` here: Serve reads build_app's annotation to validate `args`.

from ray.serve import Application

from raycap import checkpoint
from raycap.serve.captioner import CaptionerDeployment
from raycap.serve.config import CHECKPOINT_VARIABLE, ServeConfig
from raycap.serve.ingress import Ingress

__all__ = ["ServeConfig", "build_app"]
HINT = (
    f"Set `checkpoint` in serve_config.yaml or {CHECKPOINT_VARIABLE} in the environment; `raycap quickstart` makes "
    "a first one"
)


def build_app(args: ServeConfig) -> Application:
    """The application that serve_config.yaml starts.

    The checkpoint is looked up here, once: all replicas serve the same one, and a wrong path fails at once.

    Raises:
        CheckpointError: no checkpoint there, or a damaged manifest.
    """
    try:
        folder = checkpoint.resolve(args.resolved_checkpoint())
        manifest = checkpoint.read_manifest(folder)
    except checkpoint.CheckpointError as error:
        raise checkpoint.CheckpointError(f"{error}. {HINT}") from None
    config = args.model_dump(mode="json")
    captioner = CaptionerDeployment.bind(config, folder)
    return Ingress.bind(captioner, config, manifest.model_dump(mode="json"))
