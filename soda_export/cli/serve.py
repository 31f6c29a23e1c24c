"""soda-export serve"""

from __future__ import annotations

import logging
from typing import Annotated

from cyclopts import Parameter
from soda_runtime.serve.command import run_service
from soda_runtime.serve.options import ServeOptions

from .terminal import start_logging


def serve(bundle: str, /, *, options: Annotated[ServeOptions, Parameter(name="*")] = ServeOptions()) -> None:
    """Serve a bundle with the OpenAI images API, until SIGTERM or Ctrl-C.

    POST /v1/images/generations takes prompt, n, size and response_format, and the further fields seed, labels,
    negative_prompt, guidance, policy, lora and inputs. /v1/models, /health and /metrics (Prometheus) tell about the
    server. docs/serving.md says more.

    Examples:

        soda-export serve engines/shapes-b8-ort --port 8000

        soda-export serve engines/digits-b17-ort --host 0.0.0.0 --batch 8 --queue 64

        soda-export serve engines/shapes-b8-ort --lora style.safetensors:0.8 --lora-folder loras

    Parameters
    ----------
    bundle
        Bundle folder.
    options
        How it is served.
    """
    start_logging()
    logging.getLogger("soda_runtime").setLevel(logging.INFO)
    run_service(bundle, options)
