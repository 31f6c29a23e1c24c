"""What both readers say of one bundle folder, and whether they say the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from soda_runtime import Bundle, BundleError, EngineError, RequestError, Session, checks, initializers
from soda_runtime.manifest import TokenIdsPort
from soda_runtime.philox import latent_noise
from soda_runtime.request import example_request

from tests.runtime.test_fuzz import PLAYED_BYTES, _played_bytes

from .fields import fields_of
from .library import CppBundle, CppSession, Library, has_backend

FAMILIES = (BundleError, EngineError, RequestError)
ENGINES_EVERY = 64  # bundles that open are played by their own engines, too; the others by the null backend alone


def walk_each_graph_once() -> None:
    """Let the Python reader of this process remember what it found in a graph of the same bytes: most mutations change
    none, and walking all of them takes most of an opening."""
    walk = initializers.external_locations

    @lru_cache(256)
    def walked(content: bytes, path: Path) -> set[str]:
        return walk(path)

    checks.external_locations = lambda path: walked(path.read_bytes(), path)


@dataclass(frozen=True)
class Answer:
    """difference: "" where both said the same. said: what it was."""

    said: str
    difference: str = ""
    opened: bool = False
    played: bool = False


class Readers:
    """The Python runtime, and the C++ runtime through its C ABI."""

    def __init__(self, library: Library) -> None:
        self._library, self._has_engines = library, has_backend("ort")

    def compare(self, folder: Path, choose: random.Random, engines: bool | None = None) -> Answer:
        """Open `folder` with both and, where both do, play a request made by `choose`.

        engines: whether by the bundle's own ones, where these are of ONNX Runtime; default now and then.
        """
        python, one = _try(lambda: Bundle.open(folder, backend="null", threads=1))
        cpp, other = _try(lambda: self._library.open(folder, backend="null", threads=1))
        if one.family != other.family or python is None or cpp is None:
            return _judged("opening", one, other)
        try:
            if _played_bytes(python.manifest) > PLAYED_BYTES:
                return Answer("too large to be played", opened=True)
            wanted = choose.random() < 1 / ENGINES_EVERY if engines is None else engines
            request = random_request(python, choose)
            answer = _played(python, cpp, request)
            if answer.difference or not (wanted and self._has_engines and python.manifest.backend == "ort"):
                return answer
            again, one = _try(lambda: Bundle.open(folder, threads=1))
            other_again, other = _try(lambda: self._library.open(folder, threads=1))
            if again is None or other_again is None:
                return _judged("opening with engines", one, other)
            with again:
                return _played(again, other_again, request)
        finally:
            python.close()


@dataclass(frozen=True)
class _Said:
    family: str
    message: str = ""


def _try(call: Callable[[], Any]) -> tuple[Any, _Said]:
    try:
        return call(), _Said("")
    except FAMILIES as error:
        return None, _Said(type(error).__name__, str(error))
    except Exception as error:  # no reader may raise it: a family of its own
        return None, _Said(repr(error), str(error))


def _judged(what: str, python: _Said, cpp: _Said) -> Answer:
    said = f"{what}: Python {python.family or 'fine'} ({python.message}), C++ {cpp.family or 'fine'} ({cpp.message})"
    known = {kind.__name__ for kind in FAMILIES} | {""}
    same = python.family == cpp.family and python.family in known
    return Answer(said, "" if same else said)


def _played(python: Bundle, cpp: CppBundle, request: dict[str, Any]) -> Answer:
    fields = fields_of(request, python)
    session, other_session = python.session(), cpp.session()
    expected, one = _try(lambda: session.generate(**request))
    latents, other = _try(lambda: other_session.generate(**fields))
    answer = _judged("playing", one, other)
    difference = answer.difference
    if expected is not None and latents is not None:
        difference = _differing_decisions(session, other_session)
        difference = difference or _differing_results(session, other_session)
    if expected is not None and latents is not None and not np.array_equal(expected, latents):
        difference = f"latents differ by {np.abs(expected - latents).max()} of {np.abs(expected).max()}"
    return Answer(answer.said, difference, opened=True, played=True)


def _differing_decisions(python: Session, cpp: CppSession) -> str:
    expected, one = _try(lambda: python.decisions)
    decisions, other = _try(cpp.decisions)
    if expected is None or decisions is None:
        return _judged("decisions", one, other).difference
    return "" if np.array_equal(expected, decisions) else f"decisions {expected.tolist()} and {decisions.tolist()}"


def _differing_results(python: Session, cpp: CppSession) -> str:
    """What is made of the latents, whole and in chunks."""
    if not python.result_kind:
        return ""
    pieces = [(lambda: list(python.chunks()), lambda: [cpp.chunk(i) for i in range(cpp.info.num_chunks)])]
    for one, other in [(python.result, cpp.result), *(pieces if python.num_chunks else [])]:
        (expected, said), (found, other_said) = _try(one), _try(other)
        if expected is None or found is None:
            return _judged("finishing", said, other_said).difference
        if not all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)):
            return "results differ"
    return ""


def random_request(bundle: Bundle, choose: random.Random) -> dict[str, Any]:
    """A request that fits the bundle, mostly."""
    request = example_request(bundle, choose.randint(1, 3))
    request |= {"seed": choose.getrandbits(64), "accelerated": choose.random() < 0.7}
    if choose.random() < 0.2:
        request["guidance"] = choose.choice([1.0, 4.0, bundle.manifest.guidance, 0.0, -1.0, 1e39, float("nan")])
    if choose.random() < 0.4:
        _give_start(bundle, request, choose)
    if choose.random() < (0.6 if bundle.policy else 0.1):
        _give_play(bundle, request, choose)
    ids = [port for port in bundle.manifest.ports if isinstance(port, TokenIdsPort)]
    if ids and choose.random() < 0.5:  # by the text encoders, with ids at the vocabulary's ends
        _give_ids(bundle, request, ids, choose)
    for values in (request["inputs"], request["negative_inputs"]):
        if values and choose.random() < 0.05:
            values.pop(choose.choice(sorted(values)))
    return request


def _give_start(bundle: Bundle, request: dict[str, Any], choose: random.Random) -> None:
    steps = bundle.manifest.sampler.steps
    rows = choose.choice([1, request["batch"], request["batch"], 2])
    request["start_latents"] = latent_noise(choose.getrandbits(8), 9, rows, bundle.manifest.model.latent_shape)
    if choose.random() < 0.5:
        request["start_step"] = choose.choice([0, steps - 1, steps, -1, choose.randrange(steps)])
    else:
        request["strength"] = choose.choice([choose.random(), 0.01, 1.0, 1.5, 0.0, -1.0, float("nan")])


def _give_play(bundle: Bundle, request: dict[str, Any], choose: random.Random) -> None:
    request["policy"] = choose.choice(["", "", "adaptive", "adaptive", "frozen", "full", "fast"])
    request["vote"] = choose.choice(["", "", "sample", "any", "mean", "two"])
    if choose.random() < 0.4:
        steps, columns = bundle.manifest.sampler.steps, choose.choice([1, request["batch"], 2])
        actions = [choose.choice([0, 0, 0, 0, 1, 2, choose.randint(-1, 8)]) for _ in range((steps - 1) * columns)]
        request["decisions"] = np.array([*[0] * columns, *actions], np.int64).reshape(steps, columns)


def _give_ids(bundle: Bundle, request: dict[str, Any], ports: list[TokenIdsPort], choose: random.Random) -> None:
    made = {name for program in bundle.manifest.prepare for name in program.outputs}
    for values in (request["inputs"], request["negative_inputs"]):
        for name in made & set(values):
            del values[name]
        count = request["batch"] if values is request["inputs"] else 1
        if values is request["negative_inputs"] and bundle.manifest.rows_per_sample == 1:
            continue
        for port in ports:
            size = bundle.vocabulary(port.tokenizer)
            near = [0, 1, size - 1, size, -1, 2**31 - 1, 2**40][: 3 if choose.random() < 0.5 else 7]
            ids = [choose.choice(near) if choose.random() < 0.2 else 0 for _ in range(count * port.shape[0])]
            values[port.name] = np.array(ids, np.int64).reshape(count, *port.shape)
