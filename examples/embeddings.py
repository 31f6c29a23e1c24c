"""Make text embeddings with diffusers, and draw with a bundle that has no text encoder.

    soda-export build --model shapes --budget 8 --without text-encoder --out engines/shapes-bare
    python examples/embeddings.py engines/shapes-bare "a red circle" "a blue square"

Services encode a prompt once and keep what it gives: the drawing process then needs no text encoder in memory. The
file that is written here is also what `soda-export run --embeds` takes.
"""

import sys
from pathlib import Path

import diffusers
import torch
from safetensors.numpy import load_file, save_file
from soda_runtime import Embeds, Session

from soda_export.models.published import BUILTIN_FOLDER

NAMES = (
    "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask",
)  # fmt: skip


@torch.no_grad()
def encode(prompts: list[str], file: Path) -> None:
    """Write the embeddings of prompts, by the text encoder of the pipeline that the bundle was built from."""
    pipeline = diffusers.PixArtAlphaPipeline.from_pretrained(BUILTIN_FOLDER / "shapes", transformer=None, vae=None)
    made = pipeline.encode_prompt(prompts, max_sequence_length=pipeline.tokenizer.model_max_length)
    save_file({name: tensor.numpy() for name, tensor in zip(NAMES, made, strict=True)}, file)


def draw(bundle: Path, file: Path) -> None:
    """Pictures of the embeddings in a file."""
    tensors = load_file(file)
    with Session.open(bundle) as session:
        session.generate(embeds=Embeds(**tensors), seed=0)
        print(session.images().shape)  # float32 [B, 64, 64, 3] in 0..1, or latents without a decoder


if __name__ == "__main__":
    encode(sys.argv[2:], Path("embeds.safetensors"))
    draw(Path(sys.argv[1]), Path("embeds.safetensors"))
