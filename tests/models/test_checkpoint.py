"""Weights on disk: shards, what is refused, and pickles made safe."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from soda_export.cli.app import main
from soda_export.errors import ModelError
from soda_export.export.convert import convert_folder
from soda_export.models.checkpoint import hash_model
from soda_export.models.load import load_model
from tests.models.test_load import save_tiny_pixart

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_pixart(tmp_path / "model")


def pickle_weights(
    transformer: Path, name: str = "diffusion_pytorch_model.bin", nest: bool = False
) -> dict[str, Tensor]:
    """Replace a folder's .safetensors by a pickle."""
    tensors = load_file(transformer / WEIGHTS)
    torch.save({"state_dict": tensors, "epoch": 3} if nest else OrderedDict(tensors), transformer / name)
    (transformer / WEIGHTS).unlink()
    return tensors


def shard(transformer: Path) -> None:
    PixArtTransformer2DModel.from_pretrained(transformer, low_cpu_mem_usage=False).save_pretrained(
        transformer, max_shard_size="20KB"
    )
    (transformer / WEIGHTS).unlink(missing_ok=True)


def test_the_loaded_weights_are_those_of_the_files(folder: Path) -> None:
    transformer = folder / "transformer"
    expected = load_file(transformer / WEIGHTS)
    half = {key: tensor.half() for key, tensor in expected.items()}
    save_file(half | {"pos_embed.pos_embed": torch.zeros(1)}, transformer / WEIGHTS)  # as older checkpoints have
    loaded = load_model(str(folder))
    assert loaded.weights.spec("proj_out.bias") == ((32,), torch.float16)
    assert set(loaded.weights.names) == set(expected)
    for key, tensor in loaded.module.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, half[key].float(), rtol=0, atol=0)


def test_shards_load_as_one_file_does(folder: Path) -> None:
    transformer = folder / "transformer"
    whole = load_model(str(folder)).module.state_dict()
    before = hash_model(transformer)
    shard(transformer)
    assert len(list(transformer.glob("*.safetensors"))) > 2
    assert before != hash_model(transformer)
    sharded = load_model(str(folder)).module.state_dict()
    assert all(torch.equal(tensor, sharded[name]) for name, tensor in whole.items())


def test_a_shard_that_is_absent_is_named(folder: Path) -> None:
    shard(folder / "transformer")
    absent = min((folder / "transformer").glob("*.safetensors"))
    absent.unlink()
    with pytest.raises(ModelError, match=f"{absent.name}: missing, but .*index.json names it"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["../x.safetensors", "x.bin"])
def test_an_index_may_name_files_beside_it_alone(folder: Path, name: str) -> None:
    (folder / "transformer" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"is no name of a \.safetensors file beside it"):
        load_model(str(folder))


def test_wrong_weights_name_the_file_and_the_key(folder: Path) -> None:
    path = folder / "transformer" / WEIGHTS
    tensors = load_file(path)
    key = "proj_out.bias"
    for change, message in (
        ({key: tensors[key][:3].clone()}, r"'proj_out.bias' has shape \(3,\), but the configuration makes it \(32,\)"),
        ({"extra": tensors[key].clone()}, "weights have 'extra', which the configuration has no place for"),
    ):
        save_file(tensors | change, path)
        with pytest.raises(ModelError, match=rf"{WEIGHTS}: {message}"):
            load_model(str(folder))
    save_file({k: v for k, v in tensors.items() if k != key}, path)
    with pytest.raises(ModelError, match=f"{WEIGHTS}: weights lack 'proj_out.bias'; the checkpoint is incomplete"):
        load_model(str(folder))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"{WEIGHTS}: not a readable .safetensors file"):
        load_model(str(folder))


def test_a_lone_file_of_any_name_is_taken_and_several_are_not(folder: Path) -> None:
    transformer = folder / "transformer"
    (transformer / WEIGHTS).rename(transformer / "ours.safetensors")
    assert load_model(str(folder)).spec.family == "pixart"
    shutil.copy(transformer / "ours.safetensors", transformer / "theirs.safetensors")
    with pytest.raises(ModelError, match=r"none of them is diffusion_pytorch_model\.safetensors; rename"):
        load_model(str(folder))


def test_pickles_are_refused_with_the_command_that_converts_them(folder: Path) -> None:
    pickle_weights(folder / "transformer")
    with pytest.raises(ModelError, match="a pickle, and loading one can run code") as refused:
        load_model(str(folder))
    assert str(refused.value).endswith(f"soda-export convert {folder}")


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "last.ckpt"])
def test_converted_weights_are_the_pickled_ones(folder: Path, name: str, nest: bool) -> None:
    transformer = folder / "transformer"
    tensors = pickle_weights(transformer, name, nest)
    (converted,) = convert_folder(folder)
    assert (converted.path, converted.tensors) == (transformer / WEIGHTS, len(tensors))
    assert converted.bytes == converted.path.stat().st_size
    found = load_file(converted.path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    assert load_model(str(folder)).spec.family == "pixart"
    assert (transformer / name).exists()
    assert convert_folder(folder) == []


def test_every_component_gets_the_names_that_its_library_looks_for(folder: Path) -> None:
    places = {"w0": "pytorch_model-00001-of-00002.bin", "w1": "pytorch_model-00002-of-00002.bin"}
    for part, config, pickles in (
        ("text_encoder", {"model_type": "t5"}, list(places.values())),
        ("vae", {"_class_name": "AutoencoderKL"}, ["diffusion_pytorch_model.bin"]),
    ):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        for i, name in enumerate(pickles):
            torch.save({f"w{i}": torch.ones(2)}, folder / part / name)
    index = {"metadata": {"total_size": 16}, "weight_map": places}
    (folder / "text_encoder/pytorch_model.bin.index.json").write_text(json.dumps(index))
    convert_folder(folder)
    made = {str(path.relative_to(folder)) for path in folder.glob("*/*.safetensors*")}
    assert made == {
        "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors", "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
    }  # fmt: skip
    written = json.loads((folder / "text_encoder/model.safetensors.index.json").read_text())
    assert written["weight_map"]["w1"] == "model-00002-of-00002.safetensors"
    assert written["metadata"] == {"total_size": 16}


def test_tied_weights_become_copies_and_views_whole_tensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    base = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": base, "b": base, "c": base.t(), "d": base[1]}, tmp_path / "pytorch_model.bin")
    (converted,) = convert_folder(tmp_path)
    assert converted.path.name == "model.safetensors"
    found = load_file(converted.path)
    for key, expected in {"a": base, "b": base, "c": base.t(), "d": base[1]}.items():
        assert torch.equal(found[key], expected)


def test_every_type_of_weights_is_converted_and_the_libraries_read_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    types = (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool,
    )  # fmt: skip
    tensors = {str(dtype): torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype) for dtype in types}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (converted,) = convert_folder(tmp_path)
    found = load_file(converted.path)
    assert all(found[key].dtype == t.dtype and torch.equal(found[key], t) for key, t in tensors.items())
    with safe_open(converted.path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    torch.save({"w": torch.ones(2, dtype=torch.complex64)}, tmp_path / "pytorch_model.bin")
    converted.path.unlink()
    with pytest.raises(ModelError, match=r"'w' is of torch\.complex64"):
        convert_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "pytorch_model.bin"]


class Evil:
    """Creates a file when a careless reader loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.path), "w"))  # type: ignore[return-value]


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    mark = tmp_path / "ran"
    torch.save({"a": torch.ones(1), "b": Evil(mark)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: refused: it holds more than tensors") as refused:
        convert_folder(tmp_path)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' is no tensor but int"),
        ([torch.ones(1)], "holds no weights by name"),
        ({}, "holds no weights by name"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=message):
        convert_folder(tmp_path)


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"00002-of-00002\.bin: "):
        convert_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_conversion_that_was_killed_between_its_files_goes_on(tmp_path: Path, lost: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    places = {"w0": "pytorch_model-00001-of-00002.bin", "w1": "pytorch_model-00002-of-00002.bin"}
    for key, name in places.items():
        torch.save({key: torch.ones(2)}, tmp_path / name)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert len(convert_folder(tmp_path)) == 2
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / lost).unlink()
    assert len(convert_folder(tmp_path)) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert convert_folder(tmp_path) == []


def test_an_index_of_an_absent_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    places = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match=r"pytorch_model-00002-of-00002\.bin: missing"):
        convert_folder(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no component"):
        convert_folder(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        convert_folder(tmp_path / "nowhere")


def test_the_verb_tells_what_it_wrote(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["soda-export", "convert", *map(str, words)])
        main()
        return capsys.readouterr().out

    tensors = pickle_weights(folder / "transformer")
    assert json.loads(convert(folder, "--json"))[0]["tensors"] == len(tensors)
    assert "nothing to convert" in convert(folder)
    assert "Examples" in convert("--help")
    with pytest.raises(SystemExit, match="2"):
        convert(folder / "nowhere")
    assert capsys.readouterr().err.count("\n") == 1
