"""Turn a model name, a hub repository or a diffusers folder into a LoadedModel: what it is, and its weights by name."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .architecture import architecture_class, build_empty, check_agrees, hash_random
from .arguments import make_constants
from .checkpoint import hash_model, tensor_shapes
from .controlled import CONTROLS, KIND, UNET, Control, ControlledUNet, controlled_family
from .describe import describe_sites
from .fake import Build, FakeModel, make_fake, with_buffers
from .families import FAMILIES
from .family import Family, Sizes
from .hub import DEFAULT_PARTS, TEXT_PARTS
from .lora import DENOISER, LoraChanges, LoraWeights
from .origin import Origin, find_origin, resolve_folder
from .published import AESTHETICS, BUILTIN_FOLDER, CONFIG_FILES, builtin_models, read_json
from .request import ModelRequest
from .schedule import pipeline_schedule
from .sizes import made_size, read_sizes, size_key
from .spec import ModelSpec
from .weights import CheckpointWeights, JoinedWeights, RandomWeights, Weights, num_parameters

__all__ = [
    "BUILTIN_FOLDER", "DEFAULT_PARTS", "TEXT_PARTS", "LoadedModel", "ModelRequest", "builtin_models", "hash_model",
    "load_model", "resolve_folder",
]  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be profiled and exported, with the configuration of the scheduler it came with.

    family: the record as this configuration has it. kind, config: the denoiser's class and configuration. config_path:
    where that stands. constants: argument of forward -> what its Constant makes, with one row. scheduler_config: with
    what the pipeline adds (schedule.py). folder: the diffusers folder, None for random weights; published: the
    configurations of parts that lie in no folder. text_tokens: length that prompts are padded to. clip_skip: layers of
    CLIP text encoders to do without, None for what the pipeline takes. fps: frames per second of clips, 0 for pictures.
    seconds: length of sounds that was asked for, 0 for that of the latents. sizes: what the family read. size: height
    and width in pixels of what is made, zeros for sounds. own_hash: of the same model at its own size; spec.hash where
    it has that.
    """

    spec: ModelSpec
    family: Family
    kind: str
    config: Mapping[str, Any]
    config_path: Path
    weights: Weights
    constants: Mapping[str, Any]
    scheduler_config: dict[str, Any]
    folder: Path | None = None
    published: dict[str, Any] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    text_tokens: int = 0
    clip_skip: int | None = None
    variant: str = ""
    fps: float = 0.0
    seconds: float = 0.0
    sizes: Sizes | None = None
    lora: LoraChanges | None = None
    size: tuple[int, int] = (0, 0)
    own_hash: str = ""

    @cached_property
    def module(self) -> nn.Module:
        """The unmodified diffusers module with its weights in float32, in evaluation mode."""
        return self.build(torch.float32)

    @torch.no_grad()
    def build(self, dtype: torch.dtype) -> nn.Module:
        """The same in another floating type. One tensor is read at a time."""

        def place(parameter: Tensor) -> Tensor:
            return torch.empty(parameter.shape, dtype=dtype if parameter.is_floating_point() else parameter.dtype)

        model = _builder(self.kind, self.config_path, dict(self.config), self.controls)(place)
        state = model.state_dict()
        for name in self.weights.names:
            state[name].copy_(self.weights.read(name))
        return model if dtype == torch.float32 else nn.Module.to(model, dtype)  # diffusers' own .to prints

    def fake(self, dtype: torch.dtype) -> FakeModel:
        """The module without memory for its weights, and the values of its buffers."""
        build = _builder(self.kind, self.config_path, dict(self.config), self.controls)
        names = set(self.weights.names)

        def stored(name: str) -> Tensor | None:
            return self.weights.read(name) if name in names else None

        return with_buffers(make_fake(build, dtype), build, stored)

    def component_folder(self, part: str) -> Path | None:
        """Where a part (vae, text_encoder, tokenizer) lies, if it does."""
        place = None if self.folder is None else self.folder / part
        return place if place is not None and place.is_dir() else None

    def component_config(self, part: str) -> dict[str, Any] | None:
        """The configuration of a part: its folder's, else the published one."""
        folder = self.component_folder(part)
        path = None if folder is None else folder / CONFIG_FILES.get(part, "config.json")
        if path is not None and (path.is_file() or part not in self.published):
            return read_json(path, f"a diffusers folder has it; without it, remove {path.parent}")
        config: dict[str, Any] | None = self.published.get(part)
        return config


def load_model(request: ModelRequest | str, parts: tuple[str, ...] = DEFAULT_PARTS) -> LoadedModel:
    """Load a model of a known family; of a hub repository only the named parts are fetched. No weights are read yet.

    Raises ModelError.
    """
    started = time.perf_counter()
    request = ModelRequest(request) if isinstance(request, str) else request
    origin = find_origin(request, parts)
    path, config = origin.config_path, origin.config
    kind = architecture_class(path, config, list(FAMILIES))
    if origin.expected is not None:
        check_agrees(path, config, kind, origin.expected, list(FAMILIES), request.model)
    if origin.controls and kind != "UNet2DConditionModel":
        raise ModelError(f"{origin.controls[0].path}: a ControlNet goes with a UNet, and the model is a {kind}")
    fake = make_fake(_builder(kind, path, config, origin.controls), torch.float32)
    settings: dict[str, Any] = dict(fake.module.config)  # type: ignore[arg-type]  # defaults filled in
    settings[AESTHETICS] = bool(origin.published.get(AESTHETICS))
    family = FAMILIES[kind].adapt(FAMILIES[kind], settings)
    family.check(path, settings)
    if origin.controls and family.sounds:
        raise ModelError(f"{origin.controls[0].path}: a ControlNet goes with pictures, and the model makes sounds")
    if origin.controls:
        family = controlled_family(family, origin.controls, settings)
    sizes = read_sizes(family, settings, origin, request)
    sizeless = replace(request, size=())
    if request.size and made_size(sizes) == made_size(read_sizes(family, settings, origin, sizeless)):
        request = sizeless  # the size that it has anyway
    weights = _weights(origin, request, fake.module)
    lora = _read_lora(origin, request, family, weights)
    if lora is not None:
        weights = LoraWeights(weights, lora, _denoiser_prefix(origin))
    constants = make_constants(family.arguments, sizes)
    spec = ModelSpec(
        name=origin.name, family=family.name, hash=_fingerprint(origin, request, kind, lora), sites=(),
        ports=family.ports(sizes), latent_shape=sizes.latent_shape, prediction_shape=family.prediction_shape(sizes),
        output="latents" if "vae" in origin.published or len(sizes.latent_shape) != 3 else "pixels",
    )  # fmt: skip
    spec = describe_sites(fake, family, spec, constants)
    log.info(
        "model %s: %.3g M weights, %d sites, %.1f s", spec.name, num_parameters(weights) / 1e6, len(spec.sites),
        time.perf_counter() - started,
    )  # fmt: skip
    scheduler = pipeline_schedule(
        origin.scheduler, family.image_tokens(sizes), family.uniform_sigmas, family.shift(sizes)
    )
    return LoadedModel(
        spec, family, kind, config, path, weights, constants, scheduler, origin.folder, origin.published,
        origin.controls, sizes.text_tokens, request.clip_skip, request.variant,
        sizes.size.fps, sizes.size.seconds, sizes, lora, (0, 0) if family.sounds else made_size(sizes),
        _fingerprint(origin, replace(sizeless, image_size=None), kind, lora),
    )  # fmt: skip


def _builder(kind: str, path: Path, config: dict[str, Any], controls: Sequence[Control] = ()) -> Build:
    def build(parameter: Callable[[Tensor], Tensor]) -> nn.Module:
        denoiser = build_empty(kind, path, config, parameter)
        if not controls:
            return denoiser
        nets = [build_empty(KIND, control.path, dict(control.config), parameter) for control in controls]
        return ControlledUNet(denoiser, nets).eval()

    return build


def _weights(origin: Origin, request: ModelRequest, model: nn.Module) -> Weights:
    if origin.denoiser is None:
        assert request.random_weights is not None
        return RandomWeights(model, request.random_weights)
    if not origin.controls:
        return CheckpointWeights(origin.denoiser, model.state_dict(), request.variant)
    folders = {UNET: origin.denoiser}
    for number, control in enumerate(origin.controls):
        assert control.folder is not None
        folders[f"{CONTROLS}.{number}.controlnet"] = control.folder
    return JoinedWeights({
        path: CheckpointWeights(folder, model.get_submodule(path).state_dict(), request.variant)
        for path, folder in folders.items()
    })  # fmt: skip


def _read_lora(origin: Origin, request: ModelRequest, family: Family, weights: Weights) -> LoraChanges | None:
    """The LoRA files that were asked for, matched to the denoiser and to the text encoders that are there."""
    if not request.lora:
        return None
    prefix = _denoiser_prefix(origin)
    parts = {DENOISER: {name.removeprefix(prefix): weights.spec(name)[0] for name in weights.names}}
    for part in family.texts.parts:
        folder = None if origin.folder is None else origin.folder / part.name
        if folder is not None and folder.is_dir():
            parts[part.name] = tensor_shapes(folder, request.variant)
    return LoraChanges(request.lora, parts)


def _denoiser_prefix(origin: Origin) -> str:
    """What the denoiser's weights have before their names."""
    return f"{UNET}." if origin.controls else ""


def _fingerprint(origin: Origin, request: ModelRequest, kind: str, lora: LoraChanges | None) -> str:
    """Of configuration and weights, and of the size and the LoRA that the user chose."""
    if origin.denoiser is not None:
        own = hash_model(origin.denoiser, request.variant)
    else:
        assert request.random_weights is not None
        own = hash_random({**origin.config, "_class_name": kind}, request.random_weights)
    given = [*size_key(request), *([lora.content] if lora is not None else [])]
    for control in origin.controls:
        random = request.random_weights or 0
        stored = control.folder and hash_model(control.folder, request.variant)
        given.append(stored or hash_random(control.config, random))
    return hashlib.sha256(" ".join([own, *given]).encode()).hexdigest() if given else own
