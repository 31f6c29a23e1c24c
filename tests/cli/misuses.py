"""Ways to misuse the command line, several hundred: calls in a folder that broken_files.make_place filled.

A call is refused in one line, or it is one of ACCEPTED, each with the reason why it does no harm.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from .broken_files import JUNK

Words = tuple[str, ...]


@dataclass(frozen=True)
class Broken:
    """Files of one kind, KIND-*: at least how many there are, what is called with each ({} is its name), and the share
    of the calls that may work, since what was changed plays no part in them."""

    files: int
    calls: tuple[Words, ...]
    harmless: float


BROKEN = {
    "plan": Broken(60, (("inspect", "{}"), ("export", "{}", "--to", "cache-dit", "--out", "out")), 0.3),
    "map": Broken(30, (("inspect", "{}"),), 0.1),
    "bundle": Broken(60, (("inspect", "{}"), ("run", "{}", "--out", "out.npy")), 0.2),
    "as-bundle": Broken(len(JUNK), (("inspect", "{}"), ("verify", "{}"), ("run", "{}"), ("bench", "{}")), 0.0),
    "model": Broken(
        60, (("plan", "--model", "{}", "--steps", "8", "--planner", "uniform", "--budget", "4", "--out", "out"),), 0.4
    ),
}
SETS = {
    "WHOLE": ["x", "nan", "-1", "", "²", "2.5", str(2**70)], "REAL": ["x", "nan", "inf", "-1", "1e999", ""],
    "WORD": ["x", "", "-", "ort,openvino"],
    "FILE": ["missing.json", "folder", "binary.json", "empty.json", "dangling.json", "text.json/x"],
    "PLACE": ["nowhere/out", "folder", "bundle/manifest.json", "bundle/new", "text.json", "text.json/out", "/proc/x"],
}  # fmt: skip
BASE = {
    "build": "--model model --steps 8 --map map.safetensors --planner uniform --budget 4 --out out",
    "plan": "--model model --steps 8 --map map.safetensors --planner uniform --budget 4 --out out",
    "profile": "--model model --steps 8 --samples 1 --out out", "run": "bundle --out out.npy",
    "serve": "bundle --port 0", "bench": "bundle --rounds 1 --batch 1", "verify": "bundle", "inspect": "model",
    "doctor": "", "report": "bundle --out out.html",
    "sweep": "--model model --steps 8 --map map.safetensors --planners uniform --flops-ratios 1.5 --seeds 50:52 "
             "--out out",
    "eval": "plan.json --model model --seeds 50:52", "export": "plan.json --to smoothcache --out out",
    "import": "short.schedule --from cache-dit --model model --steps 8 --out out",
}  # fmt: skip
"""Verb -> words that work, but for what is added."""

OPTIONS = """
build --budget WHOLE 1 9
build --policy WORD misfit
build --calls REAL 0.5
build --threshold REAL
build --policy-samples WHOLE 0
run --policy WORD adaptive
run --vote WORD any
build --steps WHOLE 0 1001
build --guidance REAL
build --eta REAL 1.5
build --sampler WORD
build --planner WORD
build --backend WORD
build --precision WORD int8-weights
build --without WORD
build --target WORD
build --optimization-level WHOLE
build --workspace REAL
build --max-engines x nan -1 '' 2.5 0 1
build --fit-sampler WORD
build --image-size WHOLE
build --random-weights x 2.5
build --guidance-channels 2 x
build --map FILE
build --plan FILE
build --model FILE a/b/c ../.. .
build --weights missing folder empty.json
build --revision main
build --controlnet missing folder
build --out text.json text.json/x model
plan --flops-ratio REAL 0.5
plan --speedup REAL
plan --latency-ms REAL
plan --prior FILE
plan --cost WORD
plan --strategy WORD
plan --map FILE
plan --out PLACE
profile --samples WHOLE 0
profile --profile-memory REAL 0
profile --metric WORD
profile --token-score WORD
profile --prompts missing.txt
profile --profile-embeds missing.safetensors
profile --out PLACE
run --labels x -1 99 1,,2 2.5
run --prompt red
run --negative-prompt red
run --prompt-2 red
run --prompt-3 red
run --negative-prompt-2 red
run --negative-prompt-3 red
run --embeds FILE
run --start-latents FILE bundle bundle/weights.safetensors
run --start-step x 1 -1
run --strength x 0.5 nan
run --input hint=x x = control_scale=1
run --batch WHOLE
run --seed WHOLE
run --guidance x nan inf 1e999 ''
run --device '' tpu cuda:x cuda:-1
run --backend x trt null,ort
run --weights WORD
run --cuda-graph WORD
run --out '' out out.gif nowhere/out.npy folder bundle/out.npy bundle/weights.safetensors
serve --port x -1 65536 2.5 ''
serve --batch WHOLE 0 257
serve --queue WHOLE 0
serve --wait-ms REAL
serve --drain-seconds REAL
serve --threads x -1 2.5
serve --device '' tpu cuda:x cuda:-1
serve --backend x trt null,ort
serve --weights WORD
bench --batch WHOLE 0
bench --rounds WHOLE 0
bench --seed WHOLE
bench --threads x -1 2.5
bench --device tpu
bench --backend x
bench --plot out.gif nowhere/out.png bundle/out.png
bench --md PLACE
verify --device tpu cuda:x
report --samples WHOLE 13
report --labels x -1 99 1,,2 2.5
report --prompt x
report --seed WHOLE
report --bench FILE
report --sweep FILE
report --map FILE
report --out PLACE
report --device tpu
inspect --image-size WHOLE 64
inspect --random-weights x 2.5
sweep --planners '' magic , soda,,uniform
sweep --flops-ratios REAL 1,,2 0.5
sweep --seeds '' 5 9:3 a:b 50:52,51:53 -5:9
sweep --batch WHOLE 0
sweep --against magic soda
sweep --workers x -1 2.5 0 ''
sweep --fit-sampler WORD
sweep --plan-seconds REAL
sweep --plan-samples x nan -1 '' 2.5 0
sweep --max-engines x nan -1 '' 2.5 0 1
sweep --out text.json text.json/x model /proc/x
eval --seeds '' 5 9:3 a:b -5:9 0:99999999999
eval --batch WHOLE 0
eval --against WORD
eval --inception missing.pth
eval --clip missing
eval --lpips missing.pth
eval --model missing digits
import --from WORD
import --out PLACE
import --model missing folder
import --steps 9 x 0
export --to WORD
export --out PLACE
doctor --require x trt,ort
"""
"""Values that an option cannot have, the rest being as in BASE."""

FILES = """
run {} --out out.npy
serve {}
bench {}
verify {}
report {}
inspect {}
eval {}
export {} --to smoothcache --out out
import {} --from smoothcache --model model --steps 8 --out out
import {} --from cache-dit --model model --steps 8 --out out
convert {}
plan --prior {} --budget 4
build --model model --plan {} --out out
build --model {} --budget 4
"""
"""Calls with a file, or none, where another kind is needed."""

CONTRADICTIONS = """
build
build --bugdet 4
build --model model --plan plan.json --map map.safetensors
build --model model --plan plan.json --budget 4
build --model model --plan plan.json --fit-sampler best
build --model model --plan plan.json --steps 9
build --model model --plan plan.json --guidance 3
build --model model --plan plan.json --sampler euler
build --model digits --plan plan.json
build --model model --steps 8 --budget 4 --backend auto --workspace 1
build --model model --steps 8 --budget 4 --engine-weights inputs
build --model model --steps 8 --budget 4 --weights model --random-weights 0
plan
plan --model model
plan --model model --prior text.json
plan --model model --speedup 2 --latency-ms 3
plan --model model --speedup 2 --budget 4
plan --model model --latency-ms 2 --flops-ratio 2
profile
run
run bundle text-bundle
run text-bundle --prompt red --prompt-2 blue --out out.npy
run text-bundle --embeds missing --prompt-2 blue --out out.npy
run bundle --labels 1 --prompt x
run bundle --batch 2 --labels 1,2,3
run bundle --seed
run bundle --lables 1
run --bundle bundle
run text-bundle --out out.npy
run text-bundle --labels 1
serve
serve bundle bundle
serve bundle --lables 1
bench
verify
verify bundle --json=x
report
report bundle --bench bench.json --measure
report bundle --negative-prompt x
report plan.json --measure
report bundle --input x=1
report short.schedule
inspect
inspect bundle plan.json
inspect plan.json --engines
inspect bundle --sites
sweep
sweep --model model --planners soda --flops-ratios 2 --out out --workers 2 --bench
eval
eval missing
eval plan.json bundle missing
import
import two.schedule --model model
export
export plan.json
export plan.json --to triton --out out
export plan.json --to smoothcache --out out --queue 4
export bundle --to triton --out text.json
export bundle --to triton --out bundle
export bundle --to triton --out out --batch 0
convert
convert model model
doctor bundle
"""
"""Words that do not go together, or too few."""

VERBS = {
    "build": 100, "plan": 50, "profile": 25, "run": 80, "bench": 50, "verify": 20, "inspect": 30, "sweep": 40,
    "eval": 40, "import": 60, "export": 35, "serve": 50, "convert": 20, "doctor": 3, "report": 40,
}  # fmt: skip
"""Verb -> misuses of it, at least."""

_HUGE = str(2**70)
ACCEPTED: dict[Words, str] = {
    ("convert", "."): "files that end in .safetensors lie there, so there is nothing to do",
    ("convert", ""): "the same folder",
}
"""Calls that look like misuses and work -> why that does no harm."""


def misuses() -> Iterator[Words]:
    """All calls, each once."""
    for line in OPTIONS.strip().splitlines():
        verb, option, *values = shlex.split(line)
        words = BASE[verb].split()
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
        for value in values:
            for each in SETS.get(value, [value]):
                yield verb, *words, option, each
    names = [f"{name}.json" for name in JUNK]
    names += ["missing", "folder", "dangling.json", "loop.json", "", ".", "text.json/x"]
    for line in FILES.strip().splitlines():
        for name in names:
            yield tuple(word.format(name) for word in line.split())
    for line in CONTRADICTIONS.strip().splitlines():
        yield tuple(line.split())
