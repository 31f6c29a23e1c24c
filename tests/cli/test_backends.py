"""Which backends there are, and which one `auto` takes."""

from __future__ import annotations

import json

import pytest

from soda_export.compile import GRAPH_BACKENDS, REGISTRY, BackendStatus, backend_status
from soda_export.errors import CompileError
from soda_export.fastest import candidates_for, choose_backend
from soda_export.options import BundleOptions
from tests.cli.conftest import Soda
from tests.conftest import OpenBench


def status(name: str, version: str = "1.0", devices: tuple[str, ...] = ("cpu",)) -> BackendStatus:
    return BackendStatus(name, version, devices, f"pip install {name}")


def test_auto_takes_the_backend_that_is_faster(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, expected in (({"ort": 0.2, "openvino": 0.1}, "openvino"), ({"ort": 0.1, "openvino": 0.2}, "ort")):
        monkeypatch.setattr("soda_export.fastest.step_seconds", lambda _, name, found=seconds: found[name])
        choice = choose_backend(open_bench(steps=4), BundleOptions())
        assert choice.backend == expected
        assert choice.why == ", ".join(f"{n} {1e3 * s:.1f} ms" for n, s in seconds.items()) + " an all-compute step"


def test_auto_measures_for_real(open_bench: OpenBench) -> None:
    choice = choose_backend(open_bench(steps=4), BundleOptions())
    assert choice.backend in GRAPH_BACKENDS
    assert all(name in choice.why for name in GRAPH_BACKENDS)


def test_bfloat16_is_not_for_onnx_runtime_on_the_cpu(open_bench: OpenBench) -> None:
    assert candidates_for("bf16", {name: status(name) for name in GRAPH_BACKENDS}) == ["openvino"]
    choice = choose_backend(open_bench(steps=4), BundleOptions(precision="bf16"))
    assert (choice.backend, choice.why) == ("openvino", "the only one installed that runs bf16 on this machine")


def test_auto_without_an_able_backend_says_what_to_install() -> None:
    found = {"ort": status("ort"), "openvino": status("openvino", version="", devices=())}
    with pytest.raises(CompileError, match=r"no installed backend runs bf16 .*\(openvino: pip install openvino\)"):
        candidates_for("bf16", found)


def test_a_missing_library_is_reported_with_its_command(monkeypatch: pytest.MonkeyPatch, soda: Soda) -> None:
    def missing() -> str:
        raise CompileError("openvino is not installed")

    monkeypatch.setattr("soda_export.compile.openvino.library_version", missing)
    found = backend_status("openvino")
    assert (found.version, found.devices, found.install) == ("", (), "pip install soda-runtime[openvino]")
    assert soda("doctor", "--require", "openvino") == (2, "", "soda-export: openvino is not installed\n")
    assert soda("doctor", "--require", "ort")[0] == 0
    assert "trtt: not known" in soda("doctor", "--require", "trtt")[2]


def test_doctor_lists_every_backend(soda: Soda) -> None:
    code, out, _ = soda("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert [backend["name"] for backend in found["backends"]] == list(REGISTRY)
    assert all(backend["version"] and "cpu" in backend["devices"] for backend in found["backends"][:2])
    code, out, _ = soda("doctor")
    assert code == 0
    assert all(name in out for name in REGISTRY)
