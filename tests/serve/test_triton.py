"""Triton's model repository: its configuration by Triton's own schema, its model by the documented interface."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from soda_runtime import Bundle, BundleError, RequestError, Session
from soda_runtime.serve.options import ServeOptions
from soda_runtime.serve.servable import judge_bundle
from soda_runtime.serve.triton_config import config_text, input_tensors, output_tensors
from soda_runtime.serve.triton_repository import write_repository

from ..runtime.bundles import (
    GOLDEN_V5,
    GOLDEN_V5_CHUNKS,
    GOLDEN_V5_POLICY,
    GOLDEN_V5_SIZES,
    GOLDEN_V5_TEXT,
    copy_golden,
)

BUNDLES = [GOLDEN_V5, GOLDEN_V5_POLICY, GOLDEN_V5_TEXT, GOLDEN_V5_SIZES]
NUMPY = {"TYPE_STRING": np.object_, "TYPE_INT64": np.int64, "TYPE_UINT64": np.uint64, "TYPE_FP32": np.float32,
         "TYPE_UINT8": np.uint8}  # fmt: skip


def load_module(path: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def schema() -> Any:
    """model_config.proto as NVIDIA's own client has it; the rest of that package needs more than is installed."""
    found = importlib.util.find_spec("tritonclient")
    pytest.importorskip("google.protobuf")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    return load_module(Path(found.submodule_search_locations[0]) / "grpc/model_config_pb2.py", "model_config_pb2")


class Tensor:
    """As in triton_python_backend_utils."""

    def __init__(self, name: str, values: NDArray[Any]) -> None:
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._values


class Request:
    def __init__(self, **inputs: list[Any]) -> None:
        self.inputs = inputs


class Response:
    def __init__(self, output_tensors: list[Tensor], error: Any = None) -> None:
        self.outputs, self.error = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}, error


class TritonError(Exception):
    pass


@pytest.fixture
def utils(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What Triton gives a Python model to import."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, TritonError
    module.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    return module


def loaded(place: Path, bundle: Path, batch: int) -> Any:
    """The model that Triton would load, initialized as Triton does."""
    model = load_module(place / "1/model.py", f"model_{place.parent.name}").TritonPythonModel()
    model.initialize({"model_config": json.dumps({"max_batch_size": batch})})
    return model


def request(bundle: Path, **rows: list[Any]) -> Request:
    """Tensors [n, 1] of the types that the configuration says."""
    tensors = {tensor.name: tensor for tensor in input_tensors(judge_bundle(Bundle.open(bundle, backend="null")))}
    values = {name: [v.encode() if isinstance(v, str) else v for v in row] for name, row in rows.items()}
    return Request(
        **{name: Tensor(name, np.array(row, NUMPY[tensors[name].data_type])[:, None]) for name, row in values.items()}  # type: ignore[arg-type]
    )


def of_session(bundle: Path, **request: Any) -> NDArray[np.uint8]:
    session = Session.open(bundle, threads=1)
    session.generate(**request)
    return np.clip(np.round(session.images() * 255), 0, 255).astype(np.uint8)[0]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_the_configuration_is_one_of_triton_s_schema(bundle: Path, schema: Any) -> None:
    from google.protobuf import text_format

    served = judge_bundle(Bundle.open(bundle, backend="null"))
    config = text_format.Parse(config_text(served, ServeOptions(batch=6, wait_ms=2.5, queue=9)), schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == (bundle.name, "python", 6)
    assert not config.platform  # the Python backend wants it empty
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 9
    for tensors, fields in ((input_tensors(served), config.input), (output_tensors(served), config.output)):
        written = [
            (field.name, schema.DataType.Name(field.data_type), tuple(field.dims), getattr(field, "optional", False))
            for field in fields
        ]
        assert written == [(each.name, each.data_type, each.dims, each.is_optional) for each in tensors]


def test_an_unknown_field_would_be_found(schema: Any) -> None:
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError):
        text_format.Parse('name: "a" max_batches: 3', schema.ModelConfig())


def test_the_model_of_a_repository_makes_the_pictures_of_a_session(tmp_path: Path, utils: ModuleType) -> None:
    place = write_repository(GOLDEN_V5, tmp_path, ServeOptions(batch=2))
    assert sorted(path.relative_to(place).as_posix() for path in place.glob("**/*") if "bundle/" not in str(path)) == [
        "1", "1/bundle", "1/model.py", "config.pbtxt",
    ]  # fmt: skip
    model = loaded(place, GOLDEN_V5, 2)
    first, wrong, last = model.execute(
        [
            request(GOLDEN_V5, label=[1, 2, 3], seed=[5, 2**64 - 1, 7]), request(GOLDEN_V5, label=[99], seed=[1]),
            request(GOLDEN_V5, label=[1], seed=[8], guidance=[3.0], policy=["full"]),
        ]
    )  # fmt: skip
    assert first.outputs["image"].dtype == np.uint8
    for row, (label, seed) in enumerate(((1, 5), (2, 2**64 - 1), (3, 7))):
        assert np.array_equal(first.outputs["image"][row], of_session(GOLDEN_V5, labels=label, seed=seed))
    assert "give a class" in str(wrong.error)
    alone = of_session(GOLDEN_V5, labels=1, seed=8, guidance=3.0, policy="full")
    assert np.array_equal(last.outputs["image"][0], alone)
    model.finalize()


def test_the_model_takes_prompts(tmp_path: Path, utils: ModuleType) -> None:
    model = loaded(write_repository(GOLDEN_V5_TEXT, tmp_path, ServeOptions()), GOLDEN_V5_TEXT, 4)
    (response,) = model.execute([request(GOLDEN_V5_TEXT, prompt=["a red circle", "blue"], seed=[1, 2])])
    assert response.outputs["image"].shape == (2, 16, 16, 3)
    made = response.outputs["image"][1].astype(int)
    assert np.abs(made - of_session(GOLDEN_V5_TEXT, prompt="blue", seed=2)).max() <= 1


def test_a_row_chooses_among_sizes(tmp_path: Path, utils: ModuleType) -> None:
    model = loaded(write_repository(GOLDEN_V5_SIZES, tmp_path, ServeOptions()), GOLDEN_V5_SIZES, 4)
    wide, usual, mixed = model.execute(
        [
            request(GOLDEN_V5_SIZES, prompt=["red"], seed=[1], size=["24x8"]),
            request(GOLDEN_V5_SIZES, prompt=["red"], seed=[1]),
            request(GOLDEN_V5_SIZES, prompt=["red", "red"], seed=[1, 2], size=["24x8", "16x16"]),
        ]
    )
    assert np.array_equal(wide.outputs["image"][0], of_session(GOLDEN_V5_SIZES, prompt="red", seed=1, size=(8, 24)))
    assert usual.outputs["image"].shape == (1, 16, 16, 3)
    assert "rows of one request are of one size" in str(mixed.error)


def test_a_repository_is_whole_or_not_there(tmp_path: Path) -> None:
    write_repository(GOLDEN_V5, tmp_path, ServeOptions())
    with pytest.raises(RequestError, match="has a model v5 already"):
        write_repository(GOLDEN_V5, tmp_path, ServeOptions())
    with pytest.raises(BundleError, match="cannot be served"):
        write_repository(GOLDEN_V5_CHUNKS, tmp_path, ServeOptions())
    with pytest.raises(RequestError, match="bake it in with `soda-export build --lora`"):
        write_repository(GOLDEN_V5, tmp_path, ServeOptions(lora=("style.safetensors",)))
    odd = copy_golden(tmp_path / "odd name", GOLDEN_V5)
    with pytest.raises(RequestError, match="rename the folder"):
        write_repository(odd, tmp_path, ServeOptions())
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot be written"):
        write_repository(GOLDEN_V5, tmp_path / "file", ServeOptions())
    assert {path.name for path in tmp_path.iterdir()} == {"v5", "odd name", "file"}


def test_the_command_writes_a_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from soda_export.cli.export import export

    export(GOLDEN_V5, to="triton", out=tmp_path / "models", batch=3)
    assert "models/v5" in capsys.readouterr().out
    assert "max_batch_size: 3" in (tmp_path / "models/v5/config.pbtxt").read_text()
