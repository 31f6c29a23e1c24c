"""The command `soda-export`: one small file a verb, imported when it is called."""

from __future__ import annotations

import errno
import os
import sys

from cyclopts import App, CycloptsError, Parameter
from soda_runtime.errors import SodaError

from .. import __version__
from .terminal import adapt_output

_INTERRUPTED = 130
_VERBS = {
    "build": "Build a bundle: profile, plan, lower, export, compile, pack.",
    "inspect": "Show what a bundle, a stage's file or a model is.",
    "run": "Generate with a bundle.",
    "bench": "Measure a bundle against computing everything.",
    "profile": "Measure a model's sensitivity map.",
    "plan": "Choose anchors and what every module does in between.",
    "verify": "Check every byte of a bundle.",
    "doctor": "Say which backends, devices and optional packages this machine has.",
    "convert": "Write a model's pickled weights as .safetensors.",
    "eval": "Score samples against the unaccelerated model.",
    "sweep": "Compare planners at several FLOPs ratios.",
    "import": "Turn another tool's caching schedule into a plan.",
    "export": "Write a plan's schedule for another tool.",
}
_MODULES = {"import": "import_", "eval": "evaluate"}
"""Verb -> module and function, where they differ: the verb is a word of the language."""


def make_app(called: str) -> App:
    """The command line. Only the verb that is called is imported, and so tells its own help in full."""
    app = App(
        name="soda-export",
        help="Turn a diffusion transformer and a compute budget into a bundle of compiled step engines.",
        version=__version__,
        result_action="return_value",
        default_parameter=Parameter(negative=()),
    )
    for verb, summary in _VERBS.items():
        module = _MODULES.get(verb, verb)
        app.command(f"soda_export.cli.{module}:{module}", name=verb, help=None if verb == called else summary)
    return app


def main() -> None:
    """Run the command line. What the user can mend is one line and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: waiting threads sleep (0012)
    adapt_output()
    words = sys.argv[1:]
    try:
        make_app(words[0] if words else "")(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # a full disk behind it shows here, not when nobody listens any more
    except (CycloptsError, SodaError) as error:
        message = " ".join(str(error).split())
        print(f"soda-export: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("soda-export: interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(_INTERRUPTED)
    except OSError as error:
        written = error.filename2 or error.filename  # a copy names its source first
        if written is None and error.errno == errno.ENOSPC:  # every file is named by who writes it
            written = "standard output"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it goes nowhere
        place = f"{written}: " if written else ""
        print(f"soda-export: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
