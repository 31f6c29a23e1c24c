"""Train the built-in `clips` model: an Open-Sora (STDiT3) that moves a coloured shape as a caption says.

    python scripts/train_clips.py                  # every stage that has not been done yet, then the score
    python scripts/train_clips.py --stage score    # score what is there

Stages: checker (the judge of its frames, soda_export/eval/clip_checker.safetensors), text, frames, motion, order,
denoiser, score. Each goes on from its checkpoint in build/train, leaves its part of the folder build/train/clips and a
line in training.json. Frames are learned first, from the weights of `shapes` (clip_start.py), then motion, with
temporal blocks that do nothing to begin with. That gives steady motion, but in any direction: rotary embedding tells
how far frames are apart, not which is the first. So the first temporal blocks are then told (clip_motion.py), and
beside that lesson all of it learns on. Autoencoder: that of `shapes`, frame by frame.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_motion import MotionLesson
from clip_start import Untouched, start_from_shapes
from diffusers import AutoencoderKL
from language import Lesson, learn_language
from numpy.typing import NDArray
from scene_data import encode_all, render_all
from scene_score import save_autoencoder, train_checker
from torch import Tensor, nn
from train_shapes import build_text_encoder, build_tokenizer
from training import BUILTIN_FOLDER, WORK_FOLDER, optimise, read_settings, run_stages, save_half
from transformers import T5EncoderModel, T5Tokenizer

from soda_export.eval.clips import (
    CLIP_CHECKER_FILE,
    DIRECTIONS,
    FRAMES,
    FRAMES_PER_SECOND,
    SPEEDS,
    Clip,
    ClipChecker,
    all_clips,
    draw_clips,
    held_out_clips,
    render_clip,
    speed_word,
)  # fmt: skip
from soda_export.eval.scenes import COLOURS, IMAGE_SIZE, SHAPES, SIZES, is_held_out
from soda_export.models.own.stdit import STDiT3
from soda_export.sampler.rflow import RFlowScheduler

OUT = WORK_FOLDER / "clips"
MAX_TOKENS = 16
WORDS = """
    a small large red green blue yellow purple black circle square triangle moving slowly quickly to the left right up
    down
""".split()  # noqa: SIM905
FRAMES_FILE, MOTION_FILE, ORDER_FILE = (
    WORK_FOLDER / f"clips-{name}.pt" for name in ("drawn-frames", "moving-frames", "ordered-frames")
)
CAPTION_DROPOUT, NOISE_SHIFT = 0.1, 3.0
LESSON = 0.2  # what the lesson's loss counts beside the denoiser's
NOISY = 0.05  # of the time from noise to clip: where nothing but the caption says which way things go
GUIDANCE, STEPS, LEAST_SATISFIED = 4.0, 30, 0.85
_CLIPS, _BATCH = 10_000, 25
PIPELINE = {
    "_class_name": "OpenSora",
    "scheduler": ["soda_export", "RFlowScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["soda_export", "STDiT3"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def said_by(clip: Clip) -> tuple[int, ...]:
    """Colour, shape, size, direction and speed, 0 for a size or speed unsaid."""
    thing = clip.thing
    size = 1 + list(SIZES).index(thing.size) if thing.said_size else 0
    speed = 1 + list(SPEEDS).index(speed_word(clip.speed)) if clip.said_speed else 0
    places = list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), list(DIRECTIONS).index(clip.direction)
    return places[0], places[1], size, places[2], speed


def tokenize(tokenizer: T5Tokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and masks, both [n, 16]."""
    tokens = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def train_text_encoder(iterations: int) -> dict[str, Any]:
    """Every token's embedding tells the whole clip."""
    torch.manual_seed(4)
    tokenizer = build_tokenizer(WORDS, MAX_TOKENS)
    encoder = build_text_encoder(len(tokenizer))

    def lesson(held_out: bool) -> Lesson:
        clips = [clip for clip in all_clips() if is_held_out(clip.caption) == held_out]
        kinds = (len(COLOURS), len(SHAPES), 1 + len(SIZES), len(DIRECTIONS), 1 + len(SPEEDS))
        return Lesson([c.caption for c in clips], torch.tensor([said_by(c) for c in clips])[:, None], kinds)

    def tell(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        is_word = mask.bool()
        return encoder(ids, attention_mask=mask).last_hidden_state[is_word], is_word.nonzero()[:, 0]

    learned = learn_language(
        "clips-text", encoder, encoder.config.d_model, iterations, lesson(False), lesson(True),
        lambda captions: tokenize(tokenizer, captions), tell,
    )  # fmt: skip
    tokenizer.save_pretrained(OUT / "tokenizer")
    encoder.save_pretrained(OUT / "text_encoder")
    return learned


@torch.no_grad()
def encode_captions(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Captions -> embeddings float32 [n, 16, 128] and masks int64 [n, 16]."""
    encoder = T5EncoderModel.from_pretrained(OUT / "text_encoder").eval()
    ids, mask = tokenize(T5Tokenizer.from_pretrained(OUT / "tokenizer"), captions)
    return encoder(ids, attention_mask=mask).last_hidden_state, mask


def train_clip_checker(iterations: int) -> dict[str, Any]:
    """The judge of frames, and how many rendered clips it finds to be as they are captioned."""
    frames = [clip.scenes[i % FRAMES] for i, clip in enumerate(draw_clips(20_000, 1, held_out=False))]
    learned = train_checker("clip-checker", frames, CLIP_CHECKER_FILE, iterations)
    clips = held_out_clips(256, seed=2)
    verdicts = ClipChecker().verdicts(np.stack([render_clip(clip) for clip in clips]), clips)
    return {"accuracy_on_held_out_clips": float(np.mean([verdict.all for verdict in verdicts]))} | learned


def training_clips() -> tuple[list[Clip], Tensor]:
    """Clips and their latents [n, 4, FRAMES, 16, 16], scaled to unit variance; kept in build/train."""
    clips, cache = draw_clips(_CLIPS, 5, held_out=False), WORK_FOLDER / "clips-latents.pt"
    if not cache.is_file():
        vae = AutoencoderKL.from_pretrained(BUILTIN_FOLDER / "shapes/vae").eval().to(memory_format=torch.channels_last)
        parts = [
            encode_all(vae, render_all([scene for clip in clips[i : i + 250] for scene in clip.scenes]))
            for i in range(0, len(clips), 250)
        ]  # fmt: skip
        latents = torch.cat(parts).unflatten(0, (-1, FRAMES)).transpose(1, 2) * vae.config.scaling_factor
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(latents.half(), cache)
    return clips, torch.load(cache, weights_only=True).float()


def build_transformer() -> STDiT3:
    """Of the width and depth of `shapes`."""
    return STDiT3(
        in_channels=4, hidden_size=192, depth=6, num_heads=6, pred_sigma=False, qk_norm=False, caption_channels=128,
        model_max_length=MAX_TOKENS, input_sq_size=IMAGE_SIZE,
    )  # fmt: skip


PIXELS = {"fps": FRAMES_PER_SECOND, "height": IMAGE_SIZE, "width": IMAGE_SIZE}


def train_frames(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """Frames alone, from what `shapes` has learned; temporal blocks rest."""
    clips, latents = training_clips()
    transformer = build_transformer()
    start_from_shapes(transformer)
    temporal = transformer.temporal_blocks
    transformer.temporal_blocks = nn.ModuleList(Untouched() for _ in temporal)
    frames = latents.transpose(1, 2).flatten(0, 1)[:, :, None]  # [n * FRAMES, 4, 1, 16, 16]
    captions = [clip.caption for clip in clips for _ in range(FRAMES)]
    learned = _train("clips-frames", transformer, frames, captions, iterations, batch, rate)
    transformer.temporal_blocks = temporal
    torch.save(transformer.state_dict(), FRAMES_FILE)
    return learned


def train_motion(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """Whole clips, from a model that draws their frames."""
    clips, latents = training_clips()
    transformer = build_transformer()
    transformer.load_state_dict(torch.load(FRAMES_FILE, weights_only=True))
    captions = [clip.caption for clip in clips]
    learned = _train("clips-motion", transformer, latents, captions, iterations, batch, rate)
    torch.save(transformer.state_dict(), MOTION_FILE)
    return learned


def train_order(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """Which way frames go by the caption, from a model that moves things steadily."""
    torch.manual_seed(6)
    clips, latents = training_clips()
    lesson, ways = _lesson(MOTION_FILE), ways_of(clips)
    lesson.learn_alone()
    draw_captions = _captions([clip.caption for clip in clips])

    def losses() -> Iterator[Tensor]:
        while True:
            chosen, time = torch.randint(len(latents), (batch,)), 1 - NOISY * torch.rand(batch)
            noisy, _ = mix(latents[chosen], time)
            with torch.autocast("cpu", torch.bfloat16):
                _, said = lesson(noisy, 1000 * time, *draw_captions(chosen), **PIXELS)
            yield lesson.loss(said, ways[chosen], latents[chosen])

    learned = optimise("clips-order", lesson, losses(), iterations=iterations, rate=rate)
    torch.save(lesson.state_dict(), ORDER_FILE)
    return {"batch": batch, "learning_rate": rate} | learned


def train_denoiser(iterations: int, batch: int, rate: float) -> dict[str, Any]:
    """Whole clips, from a model that knows which way frames go, beside the lesson that taught it."""
    clips, latents = training_clips()
    lesson = _lesson(ORDER_FILE)
    learned = _train(
        "clips-denoiser", lesson.model, latents, [clip.caption for clip in clips], iterations, batch, rate, lesson,
        ways_of(clips),
    )  # fmt: skip
    save_half(lesson.model, OUT / "transformer")
    return {"parameters": lesson.model.num_parameters()} | learned


def _lesson(start: Path) -> MotionLesson:
    """start: weights of the model, or of model and lesson."""
    transformer = build_transformer()
    lesson, known = MotionLesson(transformer, FRAMES), torch.load(start, weights_only=True)
    (transformer if start == MOTION_FILE else lesson).load_state_dict(known)
    return lesson


def ways_of(clips: list[Clip]) -> Tensor:
    """Where the thing of each frame is from the middle of its way, in pixels to the right and down, divided by 10:
    [n, FRAMES, 2]."""
    return torch.tensor([
        [(scene.things[0].x - clip.thing.x, scene.things[0].y - clip.thing.y) for scene in clip.scenes]
        for clip in clips
    ]) / 10  # fmt: skip


def _captions(told: list[str]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Numbers of captions -> their embeddings and masks, each encoded once."""
    captions = list(dict.fromkeys(told))
    numbers = {caption: number for number, caption in enumerate(captions)}
    tellings = torch.tensor([numbers[caption] for caption in told])
    embeddings, masks = encode_captions(captions)
    return lambda chosen: (embeddings[tellings[chosen]], masks[tellings[chosen]])


def draw_times(count: int) -> Tensor:
    """Times in 0..1, 1 is noise: nearer to noise, where is decided what is drawn and which way it goes."""
    uniform = torch.rand(count)
    return NOISE_SHIFT * uniform / (1 + (NOISE_SHIFT - 1) * uniform)


def mix(clean: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Clips on the straight line to noise, and where it leads: both [n, C, T, H, W]."""
    noise, part = torch.randn_like(clean), time.reshape(-1, 1, 1, 1, 1)
    return (1 - part) * clean + part * noise, clean - noise


def _train(
    name: str, transformer: STDiT3, latents: Tensor, told: list[str], iterations: int, batch: int, rate: float,
    lesson: MotionLesson | None = None, ways: Tensor = torch.empty(0),
) -> dict[str, Any]:  # fmt: skip
    """A straight line from noise to clip (rectified flow). For a tenth of the captions the model learns what stands in
    the place of one. The transformer ends as the moving average of itself."""
    torch.manual_seed(3)
    torch.backends.cuda.enable_flash_sdp(False)  # the fused attention's backward pass is slow on a CPU
    module: nn.Module = lesson or transformer
    draw_captions, average, compiled = _captions(told), copy.deepcopy(module), torch.compile(module)

    def losses() -> Iterator[Tensor]:
        while True:
            chosen, time = torch.randint(len(latents), (batch,)), draw_times(batch)
            noisy, wanted = mix(latents[chosen], time)
            is_negative = (torch.rand(batch) < CAPTION_DROPOUT).float()
            with torch.autocast("cpu", torch.bfloat16):
                given = noisy, 1000 * time, *draw_captions(chosen)
                made = compiled(*given, **PIXELS, is_negative=is_negative, return_dict=False)
            loss = (made[0].float() - wanted).pow(2).mean()
            yield loss if lesson is None else loss + LESSON * lesson.loss(made[1], ways[chosen], latents[chosen])

    learned = optimise(name, module, losses(), iterations=iterations, rate=rate, average=average)
    module.load_state_dict(average.state_dict())
    return {"batch": batch, "learning_rate": rate} | learned


def score(count: int, steps: int, guidance: float) -> dict[str, Any]:
    """Draw held-out captions and have the checker look at every frame."""
    save_autoencoder(OUT)
    RFlowScheduler().save_pretrained(OUT / "scheduler")
    clips = held_out_clips(count)
    frames = np.concatenate([
        draw([clip.caption for clip in clips[i : i + _BATCH]], 1000 + i, steps, guidance)
        for i in range(0, count, _BATCH)
    ])  # fmt: skip
    verdicts = ClipChecker().verdicts(frames, clips)
    kinds = ("object", "direction", "speed", "all")
    scores = {kind: float(np.mean([getattr(verdict, kind) for verdict in verdicts])) for kind in kinds}
    prompts = dict.fromkeys(clip.caption for clip in draw_clips(64, 9, held_out=False))
    (OUT / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    if scores["all"] >= LEAST_SATISFIED:
        (OUT / "model_index.json").write_text(json.dumps(PIPELINE, indent=2) + "\n")
    return {"prompts": count, "steps": steps, "guidance": guidance} | scores


@torch.no_grad()
def draw(captions: list[str], seed: int, steps: int, guidance: float) -> NDArray[np.float32]:
    """Clips [n, FRAMES, 3, 64, 64] in 0..1 of captions, in equal steps from noise."""
    transformer = STDiT3.from_pretrained(OUT / "transformer", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(OUT / "vae", torch_dtype=torch.float32).eval()
    embeddings, masks = encode_captions(captions)
    rows = torch.cat([embeddings] * 2), torch.cat([masks] * 2)
    is_negative = torch.cat([torch.zeros(len(captions)), torch.ones(len(captions))])
    latents = torch.randn(len(captions), 4, FRAMES, 16, 16, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        timestep = torch.full((2 * len(captions),), 1000 * (1 - step / steps))
        velocity = transformer(torch.cat([latents] * 2), timestep, *rows, **PIXELS, is_negative=is_negative).sample
        told, untold = velocity.chunk(2)
        latents = latents + (untold + guidance * (told - untold)) / steps
    frames = vae.decode(latents.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor).sample
    return (frames / 2 + 0.5).clamp(0, 1).unflatten(0, (-1, FRAMES)).numpy()  # type: ignore[no-any-return]


def main() -> None:
    args = read_settings(
        __doc__, ("checker", "text", "frames", "motion", "order", "denoiser", "score"), checker_iterations=900,
        text_iterations=500, frame_iterations=1000, frame_batch=64, motion_iterations=2000, order_iterations=500,
        order_batch=8, order_rate=2e-3, iterations=1500, batch=16, learning_rate=1e-3, prompts=200, steps=STEPS,
        guidance=GUIDANCE,
    )  # fmt: skip
    work = {
        "checker": lambda: train_clip_checker(args.checker_iterations),
        "text": lambda: train_text_encoder(args.text_iterations),
        "frames": lambda: train_frames(args.frame_iterations, args.frame_batch, args.learning_rate),
        "motion": lambda: train_motion(args.motion_iterations, args.batch, args.learning_rate),
        "order": lambda: train_order(args.order_iterations, args.order_batch, args.order_rate),
        "denoiser": lambda: train_denoiser(args.iterations, args.batch, args.learning_rate),
        "score": lambda: score(args.prompts, args.steps, args.guidance),
    }
    run_stages(OUT, work, args.stage)


if __name__ == "__main__":
    main()
