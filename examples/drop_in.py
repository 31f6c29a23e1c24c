"""Draw with a bundle inside an unmodified diffusers pipeline, and with the bundle alone.

    soda-export build --model scenes --budget 10
    python examples/drop_in.py engines/scenes-b10-ort "a red circle"

The pipeline is that of the built-in model `scenes`, a small Stable Diffusion. Its own UNet, the bundle in its place and
the bundle alone draw from equal noise: how far the last two are from the first is what the schedule costs.
"""

import sys

import diffusers
import numpy as np
import torch

from soda_export.models.published import BUILTIN_FOLDER
from soda_export.pipelines import SodaPipeline, SodaTransformer


def main(bundle: str, prompt: str) -> None:
    """Draw in three ways."""
    alone = SodaPipeline.from_bundle(bundle)
    asked = {"guidance_scale": 3.0, "num_inference_steps": alone.num_timesteps, "output_type": "np"}

    def draw(pipe) -> np.ndarray:
        return pipe(prompt, generator=torch.Generator().manual_seed(0), **asked).images

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(BUILTIN_FOLDER / "scenes")
    own = draw(pipe)
    pipe.unet = SodaTransformer(bundle)
    inside = draw(pipe)
    print(f"inside the pipeline: RMSE {np.sqrt(np.mean((inside - own) ** 2)):.4f} to the pipeline's own UNet")
    print(f"alone: {np.abs(draw(alone) - inside).max():.1e} from that at most")
    pipe.numpy_to_pil(inside)[0].save("drop-in.png")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
