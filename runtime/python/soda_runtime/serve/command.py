"""What both command lines call, where packages may be missing."""

from __future__ import annotations

from ..errors import EngineError
from .options import ServeOptions


def run_service(bundle: str, options: ServeOptions) -> None:
    """Serve a bundle until SIGTERM or SIGINT, which is raised again. Raises SodaError."""
    try:
        from .server import serve_bundle
    except ImportError as error:
        raise EngineError(f"serving needs {error.name}: pip install 'soda-runtime[serve]'") from None
    serve_bundle(bundle, options)
