"""Optional networks that judge pictures: Inception features, CLIP scores and LPIPS, from weights on this machine.

Nothing is downloaded. Each is loaded when it is asked for, and names what is missing in one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import UsageError, first_line
from .options import NetworkOptions

Images = NDArray[np.float32]
"""[n, 1 or 3, H, W] in 0..1"""
Scores = NDArray[np.float64]
# of CLIP's training images (Radford et al. 2021)
_CLIP_MEAN, _CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Networks:
    """Those that were asked for. inception: images -> features [n, 2048]; clip: images, prompts -> 100 x cosine [n];
    lpips: two sets of images -> distances [n]."""

    inception: Callable[[Images], Scores] | None = None
    clip: Callable[[Images, Sequence[str]], Scores] | None = None
    lpips: Callable[[Images, Images], Scores] | None = None


def load_networks(options: NetworkOptions) -> Networks:
    """Load what was asked for. Raises UsageError."""
    return Networks(
        None if options.inception is None else _load_inception(options.inception),
        None if options.clip is None else _load_clip(options.clip),
        None if options.lpips is None else load_lpips(options.lpips),
    )


def _load_inception(path: Path) -> Callable[[Images], Scores]:
    package = _import("torch_fidelity", "--inception", "torch-fidelity")
    _read_weights("--inception", path)  # the package unpickles whatever the file holds; this refuses code
    network = _made("--inception", path, lambda: package.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
    ))  # fmt: skip

    def features(images: Images) -> Scores:
        pixels = (_three_channels(images) * 255).round().to(torch.uint8)
        return _numbers(network(pixels)[0])

    return features


def _load_clip(path: Path) -> Callable[[Images, Sequence[str]], Scores]:
    from transformers import AutoTokenizer, CLIPModel

    if not path.is_dir():
        raise UsageError(f"--clip {path}: no such folder; give a CLIP model in transformers' format")
    model = _made("--clip", path, lambda: CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True))
    tokenizer: Any = _made("--clip", path, lambda: AutoTokenizer.from_pretrained(path, local_files_only=True))
    model.eval()
    side, most = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    mean, spread = (torch.tensor(v)[:, None, None] for v in (_CLIP_MEAN, _CLIP_SPREAD))

    @torch.no_grad()
    def score(images: Images, prompts: Sequence[str]) -> Scores:
        """CLIPScore (Hessel et al. 2021) with the usual factor of 100."""
        pixels = torch.nn.functional.interpolate(
            _three_channels(images), (side, side), mode="bicubic", antialias=True
        ).clamp(0, 1)  # fmt: skip
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        answer = model(**tokens, pixel_values=(pixels - mean) / spread)
        cosine = torch.nn.functional.cosine_similarity(answer.image_embeds, answer.text_embeds)
        return _numbers(100 * cosine.clamp(min=0))

    return score


def load_lpips(path: Path, option: str = "--lpips") -> Callable[[Images, Images], Scores]:
    """Two sets of images -> distances [n] (Zhang et al. 2018). option: that gave the file. Raises UsageError."""
    package = _import("lpips", option, "lpips")
    trunk = _read_weights(option, path)
    network = package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()  # its own weights are in the package

    def load() -> None:
        layers = [name.split(".", 1) for name in network.net.state_dict()]  # sliceK.I.weight = features.I.weight
        network.net.load_state_dict({f"{cut}.{rest}": trunk[f"features.{rest}"] for cut, rest in layers})

    _made(option, path, load)

    @torch.no_grad()
    def distance(images: Images, others: Images) -> Scores:
        return _numbers(network(_three_channels(images), _three_channels(others), normalize=True).flatten())

    return distance


def require_weights(option: str, path: Path) -> None:
    """Raises UsageError where the file of weights is not there."""
    if not path.is_file():
        raise UsageError(f"{option} {path}: no such file; nothing is downloaded, so give weights on this machine")


def _import(module: str, option: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch is a RuntimeError
        reason = " ".join(str(error).split())
        raise UsageError(f"{option} needs {package}: pip install 'soda-export[metrics]' ({reason})") from None


def _read_weights(option: str, path: Path) -> dict[str, Any]:
    """Tensors of a .pth file; nothing in it is run."""
    require_weights(option, path)
    weights: dict[str, Any] = _made(option, path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    return weights


def _made(option: str, path: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # each library raises what it likes
        raise UsageError(f"{option} {path}: cannot be loaded: {first_line(error)}") from None


def _three_channels(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).expand(-1, 3, -1, -1)


def _numbers(values: torch.Tensor) -> Scores:
    result: Scores = values.detach().double().numpy()
    return result
