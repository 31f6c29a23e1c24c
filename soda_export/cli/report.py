"""soda-export report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soda_runtime.checks import open_manifest
from soda_runtime.manifest import LabelPort, Manifest

from ..errors import UsageError
from ..files import check_out, is_bundle, write_whole
from .inputs import parse_inputs
from .terminal import print_json, progress_bar, say, start_logging

_SAMPLES, _MOST_SAMPLES = 4, 12


def report(
    target: Path,
    /,
    *,
    out: Path = Path("report.html"),
    bench: Path | None = None,
    measure: bool = False,
    sweep: Path | None = None,
    map: Path | None = None,
    samples: int | None = None,
    labels: str | None = None,
    prompt: list[str] | None = None,
    negative_prompt: str = "",
    input: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Write one HTML file about a bundle or a sweep, for the decision whether to ship. It needs no network.

    Of a bundle: what was built, headline figures, samples beside what the full model makes of the same noise, latency
    of every step, the schedule, memory, sensitivity. Of a sweep: error against cost for every planner.

    Examples:

        soda-export report engines/digits-b17-ort --measure --out report.html

        soda-export report engines/pixart-b8-ort --bench bench.json --prompt "a lighthouse at dawn" --out pixart.html

        soda-export report sweeps/digits/sweep.json --out sweep.html

    Parameters
    ----------
    target
        Bundle folder, or the sweep.json of `soda-export sweep`.
    out
        HTML file to write.
    bench
        Of a bundle: what `soda-export bench --json` printed, for latencies and memory.
    measure
        Of a bundle: measure that now, one sample at a time.
    sweep
        Of a bundle: also show this sweep.json.
    map
        Of a bundle: its sensitivity map. [default: the one it was planned with, where engines/.work still has it]
    samples
        Of a bundle: how many samples to play and show; 0 for none. [default: one a prompt or class given, else 4]
    labels
        Class of each sample, separated by commas, where the model takes classes. [default: 0,1,2,...]
    prompt
        What to draw, where the model takes text; give it several times for several samples.
    negative_prompt
        What to steer away from.
    input
        NAME=VALUE: a number or a picture that the bundle takes, as for `soda-export run`.
    seed
        Seed of the first sample's noise.
    device
        cpu, cuda or cuda:N; auto is the backend's own.
    json
        Print the result as JSON.
    """
    from ..report.html.contents import Wanted, report_bundle, report_sweep
    from ..report.html.page import render_report

    start_logging()
    check_out(out, "a report")
    if samples is not None and not 0 <= samples <= _MOST_SAMPLES:
        raise UsageError(f"--samples {samples}: must be within 0 .. {_MOST_SAMPLES}")
    if bench is not None and measure:
        raise UsageError("--bench and --measure: give one of them")
    if is_bundle(target):
        manifest = open_manifest(target)
        requests = None if samples == 0 else _requests(manifest, samples, labels, prompt, negative_prompt, input)
        asked = any(given is not None for given in (samples, labels, prompt, input)) or bool(seed)
        wanted = Wanted(requests, asked, seed, bench, measure, sweep, map, device)
        with progress_bar() as progress:
            page = report_bundle(target, manifest, wanted, progress)
    else:
        of_bundles = {"--bench": bench, "--measure": measure, "--sweep": sweep, "--map": map, "--prompt": prompt}
        for option, given in of_bundles.items():
            if given:
                raise UsageError(f"{option}: goes with a bundle; {target} is none")
        page = report_sweep(target / "sweep.json" if target.is_dir() else target)
    content = render_report(page)
    write_whole(out, content)
    if json:
        print_json({"report": str(out), "bytes": len(content), "missing": page.missing})
        return
    say(f"{out}: {page.title}, {len(content) / 1e6:.2f} MB")
    say(*(f"  not in it: {line}" for line in page.missing))


def _requests(
    manifest: Manifest, samples: int | None, labels: str | None, prompt: list[str] | None, negative_prompt: str,
    given: list[str] | None,
) -> list[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Title and arguments of each sample; none where nothing says what to draw. Raises UsageError."""
    inputs = {"inputs": parse_inputs(given, manifest)} if given else {}
    port = next((port for port in manifest.ports if isinstance(port, LabelPort)), None)
    if prompt is not None and not manifest.tokenizers:
        raise UsageError("--prompt: this bundle takes no text")
    if negative_prompt and prompt is None:
        raise UsageError("--negative-prompt: goes with --prompt; leave it out")
    if labels is not None and port is None:
        raise UsageError("--labels: this bundle takes no classes")
    if prompt is not None:
        texts = _repeated(prompt, samples)
        return [(text, {"prompt": text, "negative_prompt": negative_prompt, **inputs}) for text in texts]
    if port is not None:
        return [(f"class {label}", {"labels": label, **inputs}) for label in _labels(labels, port, samples)]
    count = _SAMPLES if samples is None else samples
    return [] if manifest.ports else [(f"sample {i}", {"batch": 1, **inputs}) for i in range(count)]


def _labels(labels: str | None, port: LabelPort, samples: int | None) -> list[int]:
    if labels is None:
        return _repeated(list(range(port.num_classes)), _SAMPLES if samples is None else samples)
    try:
        return _repeated([int(word) for word in labels.split(",")], samples)
    except ValueError:
        raise UsageError(f"--labels {labels}: give whole numbers separated by commas, e.g. 0,1,2,3") from None


def _repeated(given: list[Any], count: int | None) -> list[Any]:
    """In turn until there are `count`; each once where it is None."""
    count = len(given) if count is None else count
    if count > _MOST_SAMPLES:
        raise UsageError(f"{count} samples: at most {_MOST_SAMPLES} are shown")
    return [given[i % len(given)] for i in range(count)]
