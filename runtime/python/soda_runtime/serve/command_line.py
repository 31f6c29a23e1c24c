"""The command line of `python -m soda_runtime.serve`, derived from ServeOptions."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from .. import __version__
from .command import run_service
from .options import ServeOptions


def make_app() -> App:
    """Call it to parse sys.argv and serve."""
    app = App(
        name="python -m soda_runtime.serve", version=__version__, result_action="return_value",
        default_parameter=Parameter(negative=(), show_default=_shown),
        suppress_keyboard_interrupt=False,
    )  # fmt: skip
    app.default(_serve)
    return app


def _shown(value: object) -> str | None:
    """How help shows a default, where it says anything."""
    return None if value in ("", None) else str(value)


def _serve(bundle: str, /, *, options: Annotated[ServeOptions, Parameter(name="*")] = ServeOptions()) -> None:
    """Serve a bundle with the OpenAI images API, until SIGTERM or SIGINT."""
    run_service(bundle, options)
