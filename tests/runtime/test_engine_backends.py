"""An engine that is damaged, or has other inputs and outputs than the manifest says, is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, EngineError
from soda_runtime.backends import View

from .bundles import Json, edit_manifest, fix_hashes, safetensors_bytes, split_safetensors


@pytest.fixture(params=["ort", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    """Libraries whose engines are the exported graphs: the same bundle opens with each."""
    pytest.importorskip({"ort": "onnxruntime"}.get(request.param, request.param))
    return str(request.param)


def _play(folder: Path, backend: str, label: int = 3) -> None:
    Bundle.open(folder, backend=backend, threads=1).session().generate(label)


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


def _one_state(folder: Path) -> None:
    """Claim a state of one tensor, with coefficients to match."""
    _set("sampler", "state_size", value=1)(folder)
    path = folder / "tables.safetensors"
    header, data = split_safetensors(path)
    header.pop("__metadata__", None)
    begin, end = header["coefficients"]["data_offsets"]
    kept = {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}
    kept["coefficients"] = data[begin:end][: 8 * 4 * 4]
    header["coefficients"]["shape"], body = [8, 4], b""
    for name, part in kept.items():
        header[name]["data_offsets"] = [len(body), len(body) + len(part)]
        body += part
    path.write_bytes(safetensors_bytes(header, body))


DAMAGE: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "an engine that is empty": ("step-02.onnx", "cannot open it", lambda f: (f / "step-02.onnx").write_bytes(b"")),
    "an engine that is text": ("step-02.onnx", "cannot open it", lambda f: (f / "step-02.onnx").write_bytes(b"{}" * 9)),
    "an engine cut short": (
        "step-02.onnx", "cannot open it",
        lambda f: (f / "step-02.onnx").write_bytes((f / "step-02.onnx").read_bytes()[:9000]),
    ),
    "an engine with other slots": ("step-00.onnx", "is not in both", _exchange("step-00.onnx", "step-01.onnx")),
    "a prepare program that is a step's": (
        "conditioning.onnx", "is not in both", _exchange("conditioning.onnx", "step-05.onnx")
    ),
    "a prepare program that is empty": (
        "conditioning.onnx", "cannot open it", lambda f: (f / "conditioning.onnx").write_bytes(b"")
    ),
    "another latent shape": ("step-00.onnx", "'state'", _set("model", "latent_shape", value=[1, 8, 9])),
    "another conditioning width": (
        "step-00.onnx", "'conditioning'", _set("tensors", 0, "shape", 1, value=8),
    ),
    "another number of axes of the conditioning": (
        "step-00.onnx", "'conditioning'", _set("tensors", 0, "shape", value=[20, 16, 1]),
    ),
    "conditioning of one row for all": ("step-00.onnx", "'conditioning'", _set("tensors", 0, "rows", value=False)),
    "conditioning of another type": ("step-00.onnx", "'conditioning'", _set("tensors", 0, "dtype", value="float16")),
    "a step that is said to take no conditioning": (
        "step-01.onnx", "'conditioning' is not in both", _set("programs", 1, "inputs", value=[]),
    ),
    "a prepare program that is said to take no labels": (
        "conditioning.onnx", "'labels' is not in both", _set("prepare", 0, "inputs", value=[]),
    ),
    "a sampler without noise": ("step-00.onnx", "'noise' is not in both", _set("sampler", "stochastic", value=False)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "message", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
def test_an_engine_that_is_not_the_manifests_is_refused(
    folder: Path, backend: str, name: str, message: str, damage: Callable[[Path], object]
) -> None:
    damage(folder)
    fix_hashes(folder)
    with pytest.raises(EngineError) as caught:
        _play(folder, backend)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert message in str(caught.value)


def test_weights_that_an_engine_points_beyond_are_refused(folder: Path, backend: str) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    fix_hashes(folder)
    with pytest.raises(EngineError, match=str(folder)):
        _play(folder, backend)


def test_a_failing_step_names_itself_and_its_engine(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["ports"][0].update(num_classes=1000))
    with pytest.raises(EngineError, match=r"prepare of steps 0\.\.7: .*conditioning.onnx: ONNX Runtime failed"):
        _play(folder, "ort", label=500)


TEXT_DAMAGE: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "more tokens": ("context.onnx", "'embeds'", _set("ports", 0, "shape", 0, value=9)),
    "wider embeddings": ("context.onnx", "'embeds'", _set("ports", 0, "shape", 1, value=32)),
    "a context without a mask": (
        "context.onnx", "'attention_mask' is not in both", _set("prepare", 1, "inputs", value=["embeds"]),
    ),
    "a text encoder that is the context": (
        "context.onnx", "is not in both", _exchange("context.onnx", "text-encoder.onnx"),
    ),
    "a text encoder that is empty": (
        "text-encoder.onnx", "cannot open it", lambda f: (f / "text-encoder.onnx").write_bytes(b""),
    ),
    "a text encoder that takes no mask": (
        "text-encoder.onnx", "'attention_mask' is not in both", _set("prepare", 0, "inputs", value=["input_ids"]),
    ),
    "weights that the text encoder points beyond": (
        "text-encoder.onnx", "cannot open it",
        lambda f: (f / "text-encoder.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}"),
    ),
    "a decoder that is empty": ("decoder.onnx", "cannot open it", lambda f: (f / "decoder.onnx").write_bytes(b"")),
    "an image of another shape": ("decoder.onnx", "'image'", _set("finish", 0, "shape", value=[3, 16, 17])),
    "a state without a history": ("step-00.onnx", "'state'", _one_state),
}  # fmt: skip


@pytest.mark.parametrize(("name", "message", "damage"), TEXT_DAMAGE.values(), ids=TEXT_DAMAGE.keys())
def test_an_engine_that_is_not_the_manifests_is_refused_in_a_bundle_of_prompts(
    text_folder: Path, backend: str, name: str, message: str, damage: Callable[[Path], object]
) -> None:
    pytest.importorskip("tokenizers")
    damage(text_folder)
    fix_hashes(text_folder)
    session = Bundle.open(text_folder, backend=backend, threads=1).session()
    with pytest.raises(EngineError) as caught:  # noqa: PT012
        session.generate(prompt="a red circle")
        session.images()
    assert f"{text_folder / name}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_name_that_an_engine_does_not_have_is_an_engine_error(folder: Path, backend: str) -> None:
    bundle = Bundle.open(folder, backend=backend, threads=1)
    view = View(bundle.backend.allocate(4), 0, "float32", (1,))
    with pytest.raises(EngineError, match="step 0"):
        bundle.engine(5).bind("step 0", {"surplus": view}, {})
