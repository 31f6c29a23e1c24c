"""Folders as they are found: weights of several variants, settings of a training, names of caches and namesakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soda_export.errors import ModelError
from soda_export.export.decoders import DecoderSource, open_decoder
from soda_export.export.tensor_file import Checkpoint
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.origin import find_origin

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def change_config(model: Path, **settings: object) -> None:
    path = model / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_part_with_half_precision_alone_is_read_whatever_the_part(tiny_pixart: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_pixart, tmp_path / "model")
    for path in sorted((tmp_path / "model").rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert load_model(str(tmp_path / "model")).weights.names
    assert "encoder.final_layer_norm.weight" in Checkpoint(tmp_path / "model/text_encoder")
    assert open_decoder(DecoderSource({"vae": tmp_path / "model/vae"}, (4, 4, 4))).module().decoder is not None


def test_of_several_variants_the_one_without_a_word_or_the_one_asked_for_is_taken(model: Path) -> None:
    folder = model / "transformer"
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    for i, variant in enumerate(("fp16", "non_ema"), 1):
        save_file(tensors | {name: torch.full_like(tensors[name], i)}, folder / WEIGHTS.replace(".", f".{variant}.", 1))
    assert torch.equal(load_model(str(model)).weights.read(name), tensors[name])
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="has weights of fp16, non_ema; choose with --variant fp16"):
        load_model(str(model))
    chosen = [load_model(ModelRequest(str(model), variant=variant)) for variant in ("fp16", "non_ema")]
    assert [float(loaded.weights.read(name).reshape(-1)[0]) for loaded in chosen] == [1.0, 2.0]
    assert chosen[0].spec.hash != chosen[1].spec.hash


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        (f"{STEM}.safetensors.index.fp16.json", f"{STEM}.fp16-0000{{}}-of-00002.safetensors"),
        (f"{STEM}.fp16.safetensors.index.json", f"{STEM}-0000{{}}-of-00002.fp16.safetensors"),
    ],
)
def test_shards_of_a_variant_load_as_one_file_does(model: Path, index: str, shard: str) -> None:
    folder = model / "transformer"
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {shard.format(1): names[: len(names) // 2], shard.format(2): names[len(names) // 2 :]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    places = {name: file for file, own in parts.items() for name in own}
    (folder / index).write_text(json.dumps({"weight_map": places}))
    assert torch.equal(load_model(str(model)).weights.read(names[-1]), tensors[names[-1]])


def test_settings_of_an_ema_are_one_warning(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_config(
        model, decay=0.9999, inv_gamma=1.0, min_decay=0.0, optimization_step=9, power=0.75, update_after_step=0,
        use_ema_warmup=False,
    )  # fmt: skip
    with caplog.at_level("WARNING"):
        assert load_model(str(model)).module is not None
    assert caplog.text.count("EMA") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "the weights are quantized"),
        ({"num_layers": 0}, "num_layers=0 must be a whole number of at least 1"),
        ({"num_layers": 2.5}, "num_layers=2.5 must be"),
        ({"patch_size": -1}, "patch_size=-1 must be"),
        ({"colour": 1}, "'colour' is no setting"),
    ],
)
def test_what_would_not_load_as_it_was_meant_is_refused(model: Path, settings: dict[str, object], message: str) -> None:
    change_config(model, **settings)
    with pytest.raises(ModelError, match=message):
        load_model(str(model))


def test_whole_numbers_of_the_right_name_are_no_weights(model: Path) -> None:
    tensors = load_file(model / "transformer" / WEIGHTS)
    name = "transformer_blocks.0.attn1.to_q.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, model / "transformer" / WEIGHTS)
    with pytest.raises(ModelError, match=r"to_q\.weight' is I8, quantized"):
        load_model(str(model))


def test_a_snapshot_of_the_hubs_cache_is_named_by_its_repository(tiny_model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--facebook--DiT-tiny/snapshots/0123456789abcdef"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(tiny_model)
    assert find_origin(str(snapshot)).name in ("DiT-tiny", "tiny")  # a link leads elsewhere
    snapshot.unlink()
    shutil.copytree(tiny_model, snapshot)
    assert find_origin(str(snapshot)).name == "DiT-tiny"


def test_where_a_name_is_also_a_folder_the_choice_is_said(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, request, message in (
        ("pixart", ModelRequest("pixart", random_weights=0), "the hub's repository is taken, not the folder here"),
        ("digits", ModelRequest("digits"), "the built-in model is taken, not the folder here; give ./digits"),
        ("owner/name", ModelRequest("owner/name"), "the folder here is taken, not the hub's repository"),
    ):
        shutil.copytree(tiny_model, tmp_path / name)
        caplog.clear()
        find_origin(request)
        assert caplog.text.count(message) == 1
    caplog.clear()
    assert find_origin("./pixart").folder is not None
    assert not caplog.text


def test_a_vae_without_its_configuration_is_refused_by_name(tiny_pixart: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_pixart, tmp_path / "model")
    (tmp_path / "model/vae/config.json").unlink()
    with pytest.raises(ModelError, match=r"vae/config\.json: cannot be read"):
        load_model(str(tmp_path / "model")).component_config("vae")
