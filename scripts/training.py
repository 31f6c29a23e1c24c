"""Losses -> trained weights, with a checkpoint every few minutes: what the training scripts share."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BUILTIN_FOLDER = Path(__file__).parents[1] / "soda_export/models/builtin"
WORK_FOLDER = Path(__file__).parents[1] / "build/train"
"""Checkpoints and caches; git ignores it."""
_WARM_UP, _CLIP = 200, 1.0
_REPORT_EVERY, _SAVE_EVERY_S = 100, 120.0


def optimise(
    name: str, module: nn.Module, losses: Iterator[Tensor], *, iterations: int, rate: float,
    average: nn.Module | None = None, ema: float = 0.999,
) -> dict[str, Any]:  # fmt: skip
    """AdamW over `losses`, with warm-up and cosine decay; goes on from the checkpoint build/train/<name>.pt.

    average: a copy of the module that becomes the moving average of its weights. Returns what training.json records:
    the loss curve [(iteration, mean of the last 100)] and the seconds over all runs.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, fused=True)
    checkpoint = WORK_FOLDER / f"{name}.pt"
    done, curve, before_s = 0, [], 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        done, curve, before_s = state["iteration"], state["curve"], state["seconds"]
        if average is not None:
            average.load_state_dict(state["average"])
        print(f"{name}: goes on from iteration {done}", flush=True)

    def save(iteration: int) -> None:
        state = {
            "module": module.state_dict(), "average": (average or module).state_dict(), "iteration": iteration,
            "optimizer": optimizer.state_dict(), "random": torch.get_rng_state(), "curve": curve,
            "seconds": before_s + time.time() - started,
        }  # fmt: skip
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    running, started = 0.0, time.time()
    saved = started
    for iteration in range(done + 1, iterations + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, iteration / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        optimizer.zero_grad(set_to_none=True)
        loss = next(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        if average is not None:
            move_average(average, module, min(ema, (1 + iteration) / (10 + iteration)))
        running += loss.item()
        if iteration % _REPORT_EVERY == 0:
            curve.append((iteration, round(running / _REPORT_EVERY, 5)))
            print(f"{name} {iteration:6d}  loss {curve[-1][1]:.4f}  {time.time() - started:.0f} s", flush=True)
            running = 0.0
            if time.time() - saved > _SAVE_EVERY_S:
                save(iteration)
                saved = time.time()
    if done < iterations:
        save(iterations)
    return {"loss_curve": curve, "seconds": round(before_s + time.time() - started)}


@torch.no_grad()
def move_average(slow: nn.Module, fast: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - decay)


def save_half(model: nn.Module, folder: Path) -> None:
    """A model in half precision, as plain tensors."""
    copy.deepcopy(model).eval().half().to(memory_format=torch.contiguous_format).save_pretrained(folder)


def read_settings(description: str | None, stages: Sequence[str], **defaults: float) -> argparse.Namespace:
    """The command line of a training script: --stage, which may come several times, and an option for each number."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    alone = "this stage alone; default: all not done yet"
    parser.add_argument("--stage", choices=tuple(stages), action="append", help=alone)
    for name, number in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(number), default=number, help=f"default {number}")
    return parser.parse_args()


def run_stages(folder: Path, stages: Mapping[str, Callable[[], dict[str, Any]]], wanted: Sequence[str] | None) -> None:
    """Run the wanted stages, or those that training.json does not record yet, and record each there."""
    record_file = folder / "training.json"
    record = json.loads(record_file.read_text()) if record_file.is_file() else {}
    for stage, work in stages.items():
        if stage in wanted if wanted else stage not in record:
            started = time.time()
            learned = work()  # it may bring the seconds of earlier runs
            record[stage] = {"seconds": round(time.time() - started)} | learned
            folder.mkdir(parents=True, exist_ok=True)
            record_file.write_text(json.dumps(record, indent=1) + "\n")
            print(stage, {k: v for k, v in record[stage].items() if k != "loss_curve"}, flush=True)
