"""Hub repositories: the cache comes first, only what is asked for is fetched, and what to do where neither helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from soda_export.errors import ModelError
from soda_export.models.hub import fetch_configs, fetch_parts
from soda_export.models.load import DEFAULT_PARTS, TEXT_PARTS, ModelRequest, load_model, resolve_folder
from tests.models.test_load import alias, save_tiny_pixart

__all__ = ["alias"]


class Hub:
    """Stands for snapshot_download: a folder of the cache, and what the network answers."""

    def __init__(self, cache: Path | None = None, network: Path | Exception | None = None) -> None:
        self.cache, self.network = cache, network or LocalEntryNotFoundError("outgoing traffic has been disabled")
        self.calls: list[dict[str, Any]] = []
        self.files: list[str] | None = []

    def __call__(self, repository: str, **options: Any) -> str:
        self.calls.append({"repository": repository, **options})
        answer = (self.cache or LocalEntryNotFoundError("x")) if options["local_files_only"] else self.network
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Hub:
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: self.list_files())
        return self

    def list_files(self) -> list[str]:
        if self.files is None:
            raise ConnectionError
        return self.files


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """What a download of a tiny PixArt repository leaves."""
    folder = save_tiny_pixart(tmp_path / "snapshot")
    parts = {"transformer": ["diffusers", "x"], "scheduler": ["diffusers", "x"], "text_encoder": ["transformers", "x"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline", **parts}))
    return folder


def _http_error(kind: type[Exception]) -> Exception:
    """An error whose constructor wants the response of the transport library, which differs between versions."""
    return kind.__new__(kind, "no")


def test_a_cached_repository_needs_no_network(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(cache=snapshot).install(monkeypatch)
    loaded = load_model("owner/tiny")
    assert (loaded.spec.name, loaded.folder) == ("tiny", snapshot)
    assert [call["local_files_only"] for call in hub.calls] == [True]


def test_only_the_parts_asked_for_are_fetched(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(network=snapshot).install(monkeypatch)
    resolve_folder(ModelRequest("pixart", revision="v1"))
    (_, call) = hub.calls
    assert (call["repository"], call["revision"]) == ("PixArt-alpha/PixArt-XL-2-512x512", "v1")
    assert "transformer/*.safetensors" in call["allow_patterns"]
    assert not any("text_encoder" in pattern or pattern.endswith(".bin") for pattern in call["allow_patterns"])
    with pytest.raises(ModelError, match="text_encoder/"):
        resolve_folder("pixart", ("text_encoder",))
    assert [p for p in hub.calls[-1]["allow_patterns"] if "/" in p] == [
        "text_encoder/*.json", "text_encoder/*.safetensors", "text_encoder/spiece.model", "text_encoder/merges.txt",
    ]  # fmt: skip


def test_every_text_encoder_of_a_pipeline_is_asked_for_and_none_that_it_lacks(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(cache=snapshot, network=snapshot).install(monkeypatch)
    parts = {name: ["transformers", "x"] for name in ("text_encoder", "text_encoder_2", "tokenizer_2")}
    index = {"transformer": ["diffusers", "x"], **parts, "text_encoder_3": [None, None]}
    (snapshot / "model_index.json").write_text(json.dumps(index))
    for part in ("text_encoder", "text_encoder_2", "tokenizer_2"):
        with pytest.raises(ModelError, match=f"no complete {part}/"):
            resolve_folder("owner/tiny", (*DEFAULT_PARTS, *TEXT_PARTS))
        (snapshot / part).mkdir()
        for name in ("config.json", "model.safetensors", "merges.txt"):
            (snapshot / part / name).write_text("{}")
    assert resolve_folder("owner/tiny", (*DEFAULT_PARTS, *TEXT_PARTS)) == ("tiny", snapshot)
    assert "text_encoder_2/*.safetensors" in hub.calls[-1]["allow_patterns"]


def test_a_part_that_the_cache_lacks_is_fetched(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(snapshot, partial)
    (partial / "transformer/diffusion_pytorch_model.safetensors").unlink()
    hub = Hub(cache=partial, network=snapshot).install(monkeypatch)
    assert fetch_parts("owner/tiny", None, ("scheduler",)) == partial
    assert len(hub.calls) == 1
    assert fetch_parts("owner/tiny", None, ("transformer",)) == snapshot
    assert [call["local_files_only"] for call in hub.calls[1:]] == [True, False]


def test_a_snapshot_that_lacks_a_part_is_never_taken_for_whole(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(network=snapshot).install(monkeypatch)
    hub.files = ["model_index.json"]
    with pytest.raises(ModelError, match="owner/tiny: the repository has no complete text_encoder/; give a local copy"):
        fetch_parts("owner/tiny", None, ("text_encoder",))
    hub.files = None
    with pytest.raises(ModelError, match="the local hub cache lacks text_encoder/, and the hub cannot be reached"):
        fetch_parts("owner/tiny", None, ("text_encoder",))


def test_a_repository_that_is_a_transformer_alone_gets_its_scheduler_from_the_package(
    snapshot: Path, alias: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot / "model_index.json").unlink()
    (snapshot / "scheduler/scheduler_config.json").unlink()
    Hub(cache=snapshot, network=snapshot).install(monkeypatch)
    loaded = load_model(alias)
    assert loaded.scheduler_config == {"beta_end": 0.02}
    assert loaded.spec.ports[0].shape == (300, 12)


def test_random_weights_of_a_repository_fetch_configurations_alone(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(network=snapshot).install(monkeypatch)
    assert load_model(ModelRequest("owner/tiny", random_weights=1)).spec.name == "tiny-random1"
    assert not any("safetensors" in pattern for call in hub.calls for pattern in call["allow_patterns"])
    Hub(cache=snapshot).install(monkeypatch)
    assert fetch_configs("owner/tiny", None) == snapshot


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("HF_HUB_OFFLINE\nis set"), "not in the local hub cache, and the hub cannot be reach"),
        (ConnectionError("refused"), r"cannot be reached \(ConnectionError: refused\)"),
        (_http_error(RepositoryNotFoundError), "no such repository on the hub, or it is private, and no such folder"),
        (_http_error(GatedRepoError), "gated: accept its terms on its page and run `hf auth login`"),
        (HFValidationError("no"), "not a name that the hub allows"),
    ],
)
def test_where_the_hub_does_not_help_the_message_says_what_does(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(network=error).install(monkeypatch)
    with pytest.raises(ModelError, match=message) as refused:
        load_model("owner/tiny")
    text = str(refused.value)
    assert text.startswith("owner/tiny: ")
    assert "--weights DIR, a folder with model_index.json, transformer/ or unet/, scheduler/, vae/" in text
    assert "\n" not in text


def test_a_revision_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(network=_http_error(RevisionNotFoundError)).install(monkeypatch)
    with pytest.raises(ModelError, match="--revision v9: owner/tiny has no such branch, tag or commit"):
        load_model(ModelRequest("owner/tiny", revision="v9"))


def test_a_repository_with_pickles_only_tells_how_to_get_on(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snapshot / "transformer/diffusion_pytorch_model.safetensors").unlink()
    hub = Hub(network=snapshot).install(monkeypatch)
    hub.files = ["model_index.json", "transformer/diffusion_pytorch_model.bin"]
    with pytest.raises(ModelError, match=r"transformer/diffusion_pytorch_model\.bin is pickled") as refused:
        load_model("owner/tiny")
    assert "`hf download owner/tiny --local-dir tiny`, `soda-export convert tiny`" in str(refused.value)


@pytest.mark.parametrize("vocabulary", ["merges.txt", "tokenizer.json", "spiece.model"])
def test_every_tokenizer_of_a_pipeline_is_a_part_like_the_first(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: str
) -> None:
    index = {"transformer": ["diffusers", "x"], "tokenizer_2": ["transformers", "x"]}
    (snapshot / "model_index.json").write_text(json.dumps(index))
    hub = Hub(cache=snapshot, network=snapshot).install(monkeypatch)
    with pytest.raises(ModelError, match="no complete tokenizer_2/"):
        fetch_parts("owner/tiny", None, ("transformer", "tokenizer_2"))
    (snapshot / "tokenizer_2").mkdir()
    (snapshot / "tokenizer_2" / vocabulary).write_text("")
    assert fetch_parts("owner/tiny", None, ("transformer", "tokenizer_2")) == snapshot
    assert "tokenizer_2/merges.txt" in hub.calls[-1]["allow_patterns"]
    assert "*.fp16.safetensors" in hub.calls[-1]["ignore_patterns"]
