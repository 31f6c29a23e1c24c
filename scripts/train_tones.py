"""Train the built-in `tones` model: a MusicLDM (UNet, CLAP, mel autoencoder) that plays notes as a caption says.

    python scripts/train_tones.py                  # every stage that has not been done yet, then the score
    python scripts/train_tones.py --stage score    # score what is there

Stages: text, vae, unet, score. Each goes on from its checkpoint in build/train, leaves its part of the diffusers folder
build/train/tones and a line in training.json; the package has a copy of that folder.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from language import Lesson, learn_language
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor
from training import WORK_FOLDER, optimise, read_settings, run_stages, save_half
from transformers import ClapConfig, ClapModel, RobertaTokenizer

from soda_export.eval.notes import (
    INSTRUMENTS,
    MELS,
    PITCHES,
    SAMPLE_RATE,
    TEMPOS,
    Tune,
    all_tunes,
    draw_tunes,
    held_out_tunes,
    mel_spectrogram,
    play,
)  # fmt: skip
from soda_export.eval.scenes import is_held_out
from soda_export.eval.tune_listener import satisfied, shares

OUT = WORK_FOLDER / "tones"
FEATURES, MAX_TOKENS = 64, 24
CAPTION_DROPOUT = 0.1
GUIDANCE, STEPS, LEAST_SATISFIED = 2.0, 50, 0.85
_CLIPS, _BATCH = 20_000, 50
PIPELINE = {
    "_class_name": "MusicLDMPipeline",
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "ClapModel"],
    "tokenizer": ["transformers", "RobertaTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "vocoder": [None, None],
}


def build_tokenizer() -> RobertaTokenizer:
    """Byte pairs merged until every word of the captions is one piece, with the space before it."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learner = FastTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), special_tokens=special,
        show_progress=False, min_frequency=1,
    )  # fmt: skip
    learner.train_from_iterator(sorted(tune.caption for tune in all_tunes()), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return RobertaTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: RobertaTokenizer) -> ClapModel:
    """CLAP's text tower; its audio tower is as small as it can be, and untrained: no pipeline runs it."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": FEATURES + 2, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "pad_token_id": tokenizer.pad_token_id, "projection_dim": FEATURES,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 1],
        "num_hidden_layers": 2, "projection_dim": FEATURES, "spec_size": 64, "num_mel_bins": 16, "window_size": 4,
    }  # fmt: skip
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=FEATURES))


def text_features(encoder: ClapModel, ids: Tensor, mask: Tensor) -> Tensor:
    """CLAP's text features [n, FEATURES], of length 1."""
    answer = encoder.get_text_features(ids, attention_mask=mask)
    return getattr(answer, "pooler_output", answer)


def tokenize(tokenizer: RobertaTokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and masks, both [n, 24]."""
    tokens = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def train_text_encoder(iterations: int) -> dict[str, Any]:
    """One vector must tell tempo, instrument and both pitches."""
    torch.manual_seed(4)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer)

    def tell(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return FEATURES**0.5 * text_features(encoder, ids, mask), torch.arange(len(ids))  # of numbers about 1

    parts = [_lesson([t for t in all_tunes() if is_held_out(t.caption) == held_out]) for held_out in (False, True)]
    learned = learn_language(
        "tones-text", encoder, FEATURES, iterations, *parts, lambda captions: tokenize(tokenizer, captions), tell
    )
    tokenizer.save_pretrained(OUT / "tokenizer")
    encoder.save_pretrained(OUT / "text_encoder")
    return learned


def _lesson(tunes: list[Tune]) -> Lesson:
    """Two notes: tempo, instrument and pitch; the second one's pitch is 0 where there is only one."""
    said = torch.zeros(len(tunes), 2, 3, dtype=torch.int64)
    for row, tune in zip(said, tunes, strict=True):
        row[:, 0], row[:, 1] = list(TEMPOS).index(tune.tempo), INSTRUMENTS.index(tune.instrument)
        for place, pitch in enumerate(tune.pitches):
            row[place, 2] = 1 + list(PITCHES).index(pitch)
    return Lesson([tune.caption for tune in tunes], said, (len(TEMPOS), len(INSTRUMENTS), 1 + len(PITCHES)))


@torch.no_grad()
def encode_captions(captions: list[str]) -> Tensor:
    """Captions -> features [n, FEATURES]."""
    encoder = ClapModel.from_pretrained(OUT / "text_encoder").eval()
    ids, mask = tokenize(RobertaTokenizer.from_pretrained(OUT / "tokenizer"), captions)
    return torch.cat([text_features(encoder, *part) for part in zip(ids.split(500), mask.split(500), strict=True)])


def training_tunes() -> tuple[list[Tune], Tensor]:
    """What autoencoder and UNet learn from: tunes, and their spectrograms [n, 1, 32, 64]."""
    tunes, cache = draw_tunes(_CLIPS, 5, held_out=False), WORK_FOLDER / "tones-mels.pt"
    if not cache.is_file():
        mels = np.stack([mel_spectrogram(play(tune)) for tune in tunes])[:, None]
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(mels).half(), cache)
    return tunes, torch.load(cache, weights_only=True).float()


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=8, block_out_channels=(24, 48, 64), layers_per_block=1,
        norm_num_groups=8, sample_size=MELS, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False,
    )  # fmt: skip


def train_vae(iterations: int) -> dict[str, Any]:
    """Reconstruction (L1 + MSE) with a slight pull to a unit Gaussian."""
    torch.manual_seed(2)
    _, mels = training_tunes()
    vae = build_vae().to(memory_format=torch.channels_last)

    def losses() -> Iterator[Tensor]:
        while True:
            given = mels[torch.randint(len(mels), (32,))]
            with torch.autocast("cpu", torch.bfloat16):
                posterior = vae.encode(given.to(memory_format=torch.channels_last)).latent_dist
                decoded = vae.decode(posterior.sample()).sample.float()
            error = decoded - given
            yield error.abs().mean() + (error**2).mean() + 1e-4 * posterior.kl().mean() / 1024

    learned = optimise("tones-vae", vae, losses(), iterations=iterations, rate=1e-3)
    vae = vae.eval()
    latents = encode_all(vae, mels[:2000])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    save_half(vae, OUT / "vae")
    return {"scaling_factor": vae.config.scaling_factor} | learned


@torch.no_grad()
def encode_all(vae: AutoencoderKL, mels: Tensor) -> Tensor:
    """Spectrograms [n, 1, 32, 64] -> means of the latents [n, 8, 8, 16]."""
    return torch.cat([vae.encode(part).latent_dist.mode() for part in mels.split(100)]).contiguous()


def build_unet() -> UNet2DConditionModel:
    """As MusicLDM's: the features stand beside the time's, and both attentions of a block are to itself."""
    widths = (64, 96, 128)
    return UNet2DConditionModel(
        sample_size=(8, 16), in_channels=8, out_channels=8, block_out_channels=widths, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=widths,
        attention_head_dim=(2, 3, 4), norm_num_groups=32, class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=FEATURES, class_embeddings_concat=True,
    )  # fmt: skip


def build_scheduler() -> DDIMScheduler:
    """MusicLDM's noise, which leaves almost nothing of the signal; v-prediction (Salimans & Ho 2022)."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction", timestep_spacing="trailing",
    )  # fmt: skip


def train_unet(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """The UNet on latents and features; all timesteps weigh the same."""
    torch.manual_seed(3)
    tunes, mels = training_tunes()
    vae = AutoencoderKL.from_pretrained(OUT / "vae").eval()
    latents = encode_all(vae, mels) * vae.config.scaling_factor
    captions = ["", *dict.fromkeys(tune.caption for tune in tunes)]
    features, numbers = encode_captions(captions), {caption: number for number, caption in enumerate(captions)}
    told = torch.tensor([numbers[tune.caption] for tune in tunes])
    scheduler, unet = build_scheduler(), build_unet()
    unet.set_attn_processor(AttnProcessor())  # the backward pass of the fused attention is slow on a CPU
    average, compiled = copy.deepcopy(unet), torch.compile(unet, options={"layout_optimization": False})
    signal, sigma = (a.sqrt().reshape(-1, 1, 1, 1) for a in (scheduler.alphas_cumprod, 1 - scheduler.alphas_cumprod))

    def losses() -> Iterator[Tensor]:
        while True:
            chosen, timestep = torch.randint(len(tunes), (batch,)), torch.randint(1000, (batch,))
            caption = torch.where(torch.rand(batch) < CAPTION_DROPOUT, 0, told[chosen])
            clean, noise = latents[chosen], torch.randn(batch, *latents.shape[1:])
            noisy = signal[timestep] * clean + sigma[timestep] * noise
            with torch.autocast("cpu", torch.bfloat16):
                predicted = compiled(noisy, timestep, None, class_labels=features[caption], return_dict=False)[0]
            yield (predicted.float() - (signal[timestep] * noise - sigma[timestep] * clean)).pow(2).mean()

    learned = optimise("tones-unet", unet, losses(), iterations=iterations, rate=rate, average=average)
    save_half(average, OUT / "unet")
    return {"parameters": unet.num_parameters(), "batch": batch, "learning_rate": rate} | learned


def score(count: int, steps: int, guidance: float) -> dict[str, Any]:
    """Play held-out captions and have the listener say what it hears."""
    build_scheduler().save_pretrained(OUT / "scheduler")
    tunes = held_out_tunes(count)
    mels = np.concatenate([
        draw([tune.caption for tune in tunes[i : i + _BATCH]], 1000 + i, steps, guidance)
        for i in range(0, len(tunes), _BATCH)
    ])  # fmt: skip
    scores = {"satisfied": float(np.mean(satisfied(mels, tunes))), **shares(mels, tunes)}
    prompts = dict.fromkeys(tune.caption for tune in draw_tunes(64, 9, held_out=False))
    (OUT / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    if scores["satisfied"] >= LEAST_SATISFIED:
        (OUT / "model_index.json").write_text(json.dumps(PIPELINE, indent=2) + "\n")
    return {"prompts": len(tunes), "steps": steps, "guidance": guidance, "sample_rate": SAMPLE_RATE} | scores


@torch.no_grad()
def draw(captions: list[str], seed: int, steps: int, guidance: float) -> NDArray[np.float32]:
    """Spectrograms [n, 32, 64] of captions, as diffusers' pipeline makes them before its vocoder."""
    unet, vae = (
        kind.from_pretrained(OUT / part, torch_dtype=torch.float32).eval()
        for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )  # fmt: skip
    features = encode_captions([*captions, ""])
    scheduler = DDIMScheduler.from_pretrained(OUT / "scheduler")
    scheduler.set_timesteps(steps)
    latents = torch.randn(len(captions), 8, *unet.config.sample_size, generator=torch.Generator().manual_seed(seed))
    labels = torch.cat([features[:-1], features[-1:].expand(len(captions), -1)])
    for timestep in scheduler.timesteps:
        told, untold = unet(torch.cat([latents] * 2), timestep, None, class_labels=labels).sample.chunk(2)
        latents = scheduler.step(untold + guidance * (told - untold), timestep, latents).prev_sample
    return vae.decode(latents / vae.config.scaling_factor).sample[:, 0].numpy()  # type: ignore[no-any-return]


def main() -> None:
    args = read_settings(
        __doc__, ("text", "vae", "unet", "score"), text_iterations=1200, vae_iterations=600, iterations=2600, batch=64,
        learning_rate=1e-3, prompts=200, steps=STEPS, guidance=GUIDANCE,
    )  # fmt: skip
    stages = {
        "text": lambda: train_text_encoder(args.text_iterations),
        "vae": lambda: train_vae(args.vae_iterations),
        "unet": lambda: train_unet(args.iterations, args.batch, args.learning_rate),
        "score": lambda: score(args.prompts, args.steps, args.guidance),
    }
    run_stages(OUT, stages, args.stage)


if __name__ == "__main__":
    main()
