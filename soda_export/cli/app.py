"""The command `soda-export`: one small file a verb, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__
from .ending import orderly_end

if TYPE_CHECKING:
    from cyclopts import App

_VERBS = {
    "build": "Build a bundle: profile, plan, lower, export, compile, pack.",
    "inspect": "Show what a bundle, a stage's file or a model is.",
    "run": "Generate with a bundle.",
    "serve": "Serve a bundle with the OpenAI images API.",
    "bench": "Measure a bundle against computing everything.",
    "report": "Write an HTML page about a bundle or a sweep.",
    "profile": "Measure a model's sensitivity map.",
    "plan": "Choose anchors and what every module does in between.",
    "verify": "Check every byte of a bundle.",
    "doctor": "Say which backends, devices and optional packages this machine has.",
    "convert": "Write a model's pickled weights as .safetensors.",
    "eval": "Score samples against the unaccelerated model.",
    "sweep": "Compare planners at several FLOPs ratios.",
    "import": "Turn another tool's caching schedule into a plan.",
    "export": "Write a plan's schedule for another tool, or a bundle for NVIDIA Triton.",
}
_MODULES = {"import": "import_", "eval": "evaluate"}
"""Verb -> module and function, where they differ: the verb is a word of the language."""


def make_app(called: str) -> App:
    """The command line. Only the verb that is called is imported, and so tells its own help in full."""
    from cyclopts import App, Parameter  # once signals are listened to: it takes a while

    from .terminal import Screen

    app = App(
        name="soda-export",
        help="Turn a diffusion transformer and a compute budget into a bundle of compiled step engines.",
        version=__version__,
        result_action="return_value",
        console=Screen(),
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=(), show_default=_shown_default),
    )
    for verb, summary in _VERBS.items():
        module = _MODULES.get(verb, verb)
        app.command(f"soda_export.cli.{module}:{module}", name=verb, help=None if verb == called else summary)
    return app


def _shown_default(value: object) -> str | None:
    """How help shows a default, where it says anything."""
    return None if value is None or value is False or value in ("", ()) else str(value)


def main() -> None:
    """Run the command line; how it ends, ending.py says."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: waiting threads sleep (0012)
    words = sys.argv[1:]
    verb = words[0] if words else ""
    with orderly_end(verb):
        from .terminal import adapt_output

        adapt_output()
        app = make_app(verb)
        _check_whole(app, words)
        app(words, exit_on_error=False, print_error=False)


def _check_whole(app: App, words: Sequence[str]) -> None:
    """Refuse 2.5 where a whole number goes; cyclopts would round it. Raises UsageError."""
    if not words or words[0] not in _VERBS or not any(_is_fraction(word.rpartition("=")[2]) for word in words):
        return
    options = {
        name
        for argument in app[words[0]].assemble_argument_collection()
        for name in argument.names
        if argument.hint in (int, int | None)
    }
    for word, after in zip(words, (*words[1:], ""), strict=True):
        name, equals, value = word.partition("=")
        given = value if equals else after
        if name in options and _is_fraction(given):
            from ..errors import UsageError

            raise UsageError(f"{name} {given}: must be a whole number")


def _is_fraction(text: str) -> bool:
    try:
        return "." in text and not float(text).is_integer()
    except ValueError:
        return False
