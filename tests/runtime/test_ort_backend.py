"""An engine that is damaged, or has other inputs and outputs than the manifest says, is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, EngineError
from soda_runtime.backends import View

from .bundles import Json, edit_manifest, fix_hashes


def _play(folder: Path, label: int = 3) -> None:
    Bundle.open(folder, threads=1).session().generate(label)


def _exchange(first: str, second: str) -> Callable[[Path], None]:
    def exchange(folder: Path) -> None:
        a, b = (folder / first).read_bytes(), (folder / second).read_bytes()
        (folder / first).write_bytes(b)
        (folder / second).write_bytes(a)

    return exchange


def _set(*path: str | int, value: object) -> Callable[[Path], None]:
    def change(manifest: Json) -> None:
        target = manifest
        for key in path[:-1]:
            target = target[key]  # type: ignore[index]
        target[path[-1]] = value  # type: ignore[index]

    return lambda folder: edit_manifest(folder, change)


DAMAGE: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "an engine that is empty": ("step-02.onnx", "cannot open it", lambda f: (f / "step-02.onnx").write_bytes(b"")),
    "an engine that is text": ("step-02.onnx", "cannot open it", lambda f: (f / "step-02.onnx").write_bytes(b"{}" * 9)),
    "an engine cut short": (
        "step-02.onnx", "cannot open it",
        lambda f: (f / "step-02.onnx").write_bytes((f / "step-02.onnx").read_bytes()[:9000]),
    ),
    "an engine with other slots": ("step-00.onnx", "is not in both", _exchange("step-00.onnx", "step-01.onnx")),
    "a prepare program that is a step's": ("prepare.onnx", "is not in both", _exchange("prepare.onnx", "step-05.onnx")),
    "another latent shape": ("step-00.onnx", "'state'", _set("model", "latent_shape", value=[1, 8, 9])),
    "another conditioning width": (
        "step-00.onnx", "'conditioning'", _set("prepare", "conditioning", 0, "width", value=8),
    ),
    "a sampler without noise": ("step-00.onnx", "'noise' is not in both", _set("sampler", "stochastic", value=False)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "message", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
def test_an_engine_that_is_not_the_manifests_is_refused(
    folder: Path, name: str, message: str, damage: Callable[[Path], object]
) -> None:
    damage(folder)
    fix_hashes(folder)
    with pytest.raises(EngineError) as caught:
        _play(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert message in str(caught.value)


def test_weights_that_an_engine_points_beyond_are_refused(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    fix_hashes(folder)
    with pytest.raises(EngineError, match=str(folder)):
        _play(folder)


def test_a_failing_step_names_itself_and_its_engine(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["model"].update(num_classes=1000))
    with pytest.raises(EngineError, match=r"prepare of steps 0\.\.7: .*prepare.onnx: ONNX Runtime failed"):
        _play(folder, label=500)


def test_a_name_that_an_engine_does_not_have_is_an_engine_error(folder: Path) -> None:
    bundle = Bundle.open(folder, threads=1)
    view = View(bundle.backend.allocate(4), 0, "float32", (1,))
    with pytest.raises(EngineError, match="step 0"):
        bundle.engine(5).bind("step 0", {"surplus": view}, {})
