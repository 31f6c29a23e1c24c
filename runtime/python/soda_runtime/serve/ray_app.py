"""Replicas of a Service on as many machines as a Ray cluster has, behind one address.

    serve run soda_runtime.serve.ray_app:app bundle=/models/digits replicas=4

Every machine needs soda-runtime with the extra `serve`, and the bundle and its LoRA files at the same path.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from starlette.applications import Starlette

from ..errors import RequestError
from .app import make_app
from .options import ServeOptions
from .service import Service


def ray_application(
    bundle: str, options: ServeOptions = ServeOptions(), *, replicas: int = 2, cpus: float = 1.0, gpus: float = 0.0
) -> serve.Application:
    """For `ray.serve.run`. cpus, gpus: of each replica; options.threads should not exceed cpus. Where machines are
    alike, the answer to a seed does not depend on the replica that gives it."""

    def build() -> Starlette:  # in each replica
        return make_app(Service.open(bundle, options))

    resources = {"num_cpus": cpus, "num_gpus": gpus}
    deployment = serve.deployment(
        serve.ingress(build)(), name="soda", num_replicas=replicas, ray_actor_options=resources,
        max_ongoing_requests=options.queue + options.batch, graceful_shutdown_timeout_s=options.drain_seconds,
    )  # fmt: skip
    application: serve.Application = deployment.bind()
    return application


def app(settings: dict[str, Any]) -> serve.Application:
    """What `serve run` calls with its NAME=VALUE words. Raises RequestError."""
    for name in settings:
        if name not in (*_OWN, *_TYPES):
            raise RequestError(f"{name}: no such setting; there are {', '.join((*_OWN, *_TYPES))}")
    if "bundle" not in settings:
        raise RequestError("which bundle? write bundle=/path/of/it")
    given = {name: type_(settings[name]) for name, type_ in _TYPES.items() if name in settings}
    return ray_application(
        str(settings["bundle"]), ServeOptions(**given), replicas=int(settings.get("replicas", 2)),
        cpus=float(settings.get("cpus", 1)), gpus=float(settings.get("gpus", 0)),
    )  # fmt: skip


def _listed(words: object) -> tuple[str, ...]:
    return tuple(str(words).split(","))


_OWN = ("bundle", "replicas", "cpus", "gpus")
_TYPES: dict[str, Any] = {
    "batch": int, "queue": int, "threads": int, "wait_ms": float, "lora": _listed, "lora_folder": str,
}  # fmt: skip
