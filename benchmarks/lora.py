"""LoRA on a built bundle against diffusers' untouched pipeline, and what opening with it costs.

    pip install -e .[bench]
    soda-export build --model shapes --budget 5 --steps 8 --planner uniform --out engines/shapes-lora
    python benchmarks/lora.py engines/shapes-lora            # model: shapes or scenes; C++ too, after `make cpp`

PEFT makes a LoRA with random factors for the built-in model, linear layers and a convolution. It changes the pipeline
as diffusers does it (`load_lora_weights` for scenes' UNet; diffusers has none for PixArt, so PEFT itself wraps shapes'
transformer), and the bundle is opened with the saved file. Times are of openings in turn, all engines opened.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import torch
from records import write_record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from soda_runtime import Noise, Session  # noqa: E402

from soda_export.models.load import BUILTIN_FOLDER  # noqa: E402
from tests.cpp.fields import fields_of  # noqa: E402
from tests.cpp.library import BUILD, Library, has_backend  # noqa: E402

RANK, ALPHA, SIZE, STRENGTHS = 4, 8, 0.05, (0.0, 0.5, 1.0)
LAYERS = {
    "shapes": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "pos_embed.proj"],
    "scenes": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv_out"],
}
PROMPT = "a red circle above a blue square"
Floats = np.ndarray[Any, Any]
SetStrength = Callable[[float], None]


def add_lora(pipe: Any, model: str, folder: Path) -> tuple[Path, SetStrength]:
    """Change the pipeline by a new LoRA, and keep it in a file. Gives the file and what sets its strength."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, init_lora_weights=False, target_modules=LAYERS[model])
    torch.manual_seed(0)
    if model == "shapes":
        pipe.transformer = changed = peft.get_peft_model(pipe.transformer, config)
        _stir(changed)
        changed.save_pretrained(folder)
        layers = [part for part in changed.modules() if isinstance(part, peft.tuners.lora.LoraLayer)]

        def set_strength(strength: float) -> None:
            for layer in layers:
                layer.set_scale("default", strength)

        return folder, set_strength
    pipe.unet.add_adapter(config)
    _stir(pipe.unet)
    type(pipe).save_lora_weights(
        folder, unet_lora_layers=peft.get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )  # fmt: skip
    pipe.unet.delete_adapters("default")
    pipe.load_lora_weights(folder, adapter_name="style")
    return folder, lambda strength: pipe.set_adapters("style", strength)


def _stir(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, SIZE)


@torch.no_grad()
def drawn_by_diffusers(pipe: Any, session: Session, noise: Floats) -> Floats:
    """Latents of the untouched pipeline with the bundle's steps and guidance."""
    manifest = session.bundle.manifest
    more = {"clean_caption": False, "use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    latents = pipe(
        PROMPT, negative_prompt="", num_inference_steps=manifest.sampler.steps, guidance_scale=manifest.guidance,
        latents=torch.from_numpy(noise), output_type="latent", **more,
    )  # fmt: skip
    made: Floats = latents.images.numpy()
    return made


def seconds_to_open(bundle: Path, **options: Any) -> float:
    """Until every engine of the schedule is open."""
    begin = time.perf_counter()
    with Session.open(bundle, **options) as session:
        session.start(prompt=PROMPT, negative_prompt="", seed=0)
        session.playback.wait()
        return time.perf_counter() - begin


def openings(bundle: Path, lora: list[Any], rounds: int, backend: str) -> dict[str, Any]:
    """Medians and least times in turn, and of a change of strength."""
    plain, added = [], []
    for _ in range(rounds):
        plain.append(seconds_to_open(bundle, backend=backend))
        added.append(seconds_to_open(bundle, backend=backend, lora=lora))
    with Session.open(bundle, backend=backend, lora=lora) as session:
        session.start(prompt=PROMPT, negative_prompt="", seed=0)
        session.playback.wait()
        begin = time.perf_counter()
        session.set_lora_strengths([0.5])
        session.start(prompt=PROMPT, negative_prompt="", seed=0)
        session.playback.wait()
        change = time.perf_counter() - begin
    return {
        "without": statistics.median(plain), "with": statistics.median(added), "least without": min(plain),
        "least with": min(added), "ratio": statistics.median(added) / statistics.median(plain),
        "least ratio": min(added) / min(plain), "change of strength": change, "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle of the built-in model, with its text encoder")
    parser.add_argument("--model", choices=LAYERS, default="shapes")
    parser.add_argument("--backends", nargs="+", choices=("ort", "openvino"), default=["ort", "openvino"])
    parser.add_argument("--rounds", type=int, default=9, help="openings of each kind")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    pipe = diffusers.DiffusionPipeline.from_pretrained(BUILTIN_FOLDER / args.model)
    pipe.set_progress_bar_config(disable=True)
    backends: list[str] = args.backends
    built = BUILD / "lib/libsoda_runtime.so"
    library = Library(built) if built.is_file() else None
    result: dict[str, Any] = {"model": args.model, "rank": RANK, "alpha": ALPHA, "layers": LAYERS[args.model]}
    with tempfile.TemporaryDirectory() as folder:
        file, set_strength = add_lora(pipe, args.model, Path(folder))
        shape = Session.open(args.bundle, backend="null").bundle.manifest.model.latent_shape
        noise = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        result["against diffusers"] = differences = {}
        unchanged: Floats | None = None
        for strength in STRENGTHS:
            set_strength(strength)
            for backend in backends:
                with Session.open(args.bundle, backend=backend, lora=[(file, strength)]) as session:
                    expected = drawn_by_diffusers(pipe, session, noise)
                    unchanged = expected if unchanged is None else unchanged
                    found = session.generate(
                        prompt=PROMPT, negative_prompt="", noise=Noise(noise), accelerated=False
                    )
                differences[f"{backend}, strength {strength:g}"] = float(np.abs(found - expected).max())
            differences[f"effect of strength {strength:g}"] = float(np.abs(expected - unchanged).max())
        result["seconds to open"] = {name: openings(args.bundle, [file], args.rounds, name) for name in backends}
        if library is not None:
            result["C++ against Python"] = against_cpp(library, args.bundle, file, backends)
    write_record(result, args.out)


def against_cpp(library: Library, bundle: Path, file: Path, backends: list[str]) -> dict[str, float]:
    """Largest difference of latents of one request, with the tokens that Python's tokenizer gives."""
    differences, request = {}, {"prompt": PROMPT, "negative_prompt": "", "seed": 3}
    for backend in (name for name in backends if has_backend(name)):
        for strength in STRENGTHS:
            with Session.open(bundle, backend=backend, lora=[(file, strength)]) as session:
                expected, fields = session.generate(**request), fields_of(request, session.bundle)
            found = library.open(bundle, backend=backend, lora=[(file, strength)]).session().generate(**fields)
            differences[f"{backend}, strength {strength:g}"] = float(np.abs(found - expected).max())
    return differences


if __name__ == "__main__":
    main()
