"""A page in a real browser, without a window: what it says on its console, and what a script finds in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
_FOUND = re.compile(r'<meta name="found" content="([^"]*)">')


@dataclass(frozen=True)
class Visit:
    """found: what the script returned. console: lines of it, errors of the page and refused requests included."""

    found: Any
    console: list[str]


def visit(page: bytes, folder: Path, width: int, dark: bool = False, script: str = "null") -> Visit:
    """Show a page in a frame `width` pixels wide, as windows have a least width, and evaluate `script` in it."""
    frame, outside = folder / "page.html", folder / "outside.html"
    report = f"<script>parent.postMessage(JSON.stringify({script}), '*')</script>"
    frame.write_bytes(page.replace(b"</body>", report.encode() + b"</body>"))
    outside.write_text(
        "<!doctype html><script>addEventListener('message', (event) => {"
        "const found = document.createElement('meta'); found.name = 'found'; found.content = event.data;"
        "document.head.append(found); });</script>"
        f'<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe>'
    )
    run = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={folder / 'profile'}",
         "--window-size=1400,1000", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", outside.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = _FOUND.search(run.stdout)
    assert found, run.stderr[-2000:]
    lines = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
    return Visit(json.loads(unescape(found[1])), lines)
