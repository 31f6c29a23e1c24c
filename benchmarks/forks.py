"""Which samples end elsewhere whatever leads them: everything computed, and a little noise added to every prediction.

    python benchmarks/forks.py digits --seeds 1000000:1000256,2000000:2000256 --out docs/results/forks-digits.json
    python benchmarks/forks.py digits --forks docs/results/forks-digits.json --sweep sweeps/digits

The noise is normal, by default 0.001 of a prediction's root mean square, which is what rounding it to bfloat16 changes
(2^-9 / sqrt(3)). Prints JSON: the RMSE of the final latents against those without noise, mean and median of samples'
own RMSEs, and the samples that move ten times as far as the median one: their share of the squared error, and their
RMSE in each draw of the noise. Where draws lie far apart a sample is close to a fork, and how far a schedule moves it
is a matter of chance.

With --sweep, what a sweep says of `best` beside the best published planner with those samples and without them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from built_in import open_bench
from numpy.typing import NDArray
from records import write_record

from soda_export.eager.sampling import Sampling
from soda_export.eval.sample import ModelSamples, batches
from soda_export.eval.seeds import parse_seeds
from soda_export.options import SamplerRequest
from soda_export.sampler import SamplerTable
from soda_export.search.objective import mean_squares
from soda_export.sweep.rows import RowFile
from soda_export.sweep.summary import BEST_PUBLISHED, summarise_pairs
from soda_export.sweep.unit import SweepRow

_BATCH, _CLOSE = 64, 10.0  # times the median
_FAR = 1_000_003  # between the seeds of draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sampler")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", default="1000000:1000256")
    parser.add_argument("--size", type=float, default=0.001, help="of the noise, in root mean squares of a prediction")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--forks", type=Path, help="what this command found before; with --sweep")
    parser.add_argument("--sweep", type=Path, help="folder of a sweep")
    parser.add_argument("--store", type=Path, default=Path("engines/.work"), help="stage store")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    record = json.loads(args.forks.read_bytes()) if args.forks else measure(args)
    if args.sweep:
        close = {sample["seed"] for sample in record["close"]}
        record |= {"sweep": compare(args.sweep, set()), "sweep_without_them": compare(args.sweep, close)}
    write_record(record, args.out)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """What noise does to the samples of the seeds."""
    bench = open_bench(args.model, args.store, SamplerRequest(args.sampler, args.steps))
    samples, sampler, found = ModelSamples(bench), bench.sampler, []
    parts = [part for text in args.seeds.split(",") for part in batches(parse_seeds(text), _BATCH)]
    for part in parts:
        sampling = samples.sampling(part)
        exact = sampling.run(sampler)[0]
        draws = [run_noisy(sampling, sampler, args.size, part.start + _FAR * draw) for draw in range(args.draws)]
        found.append(np.sqrt([mean_squares(latents - exact) for latents in draws]))
    return {
        "model": args.model, "sampler": bench.options.sampler, "steps": sampler.steps, "seeds": args.seeds,
        "noise": args.size, **describe([seed for part in parts for seed in part], np.hstack(found)),
    }  # fmt: skip


def run_noisy(sampling: Sampling, sampler: SamplerTable, size: float, seed: int) -> torch.Tensor:
    """The final latents [B, *latent_shape] with normal noise in every prediction, `size` times its root mean square."""
    generator = torch.Generator().manual_seed(seed)
    state = sampling.begin(sampler)
    for step in range(sampler.steps):
        output = sampling.predict(sampler, step, state)
        noise = torch.randn(output.shape, generator=generator).to(output)
        scale = size * output.flatten(1).square().mean(dim=1).sqrt().reshape(-1, *[1] * (output.dim() - 1))
        state = sampling.advance(sampler, step, state, output + scale * noise)
    return state[0]


def describe(seeds: list[int], errors: NDArray[np.float64]) -> dict[str, Any]:
    """errors: [draws, B], each sample's RMSE."""
    moved, median = np.sqrt((errors**2).mean(axis=0)), float(np.median(errors))
    share = moved**2 / (moved**2).sum()
    close = [
        {"seed": seeds[i], "share": round(float(share[i]), 3), "rmse": errors[:, i].round(4).tolist()}
        for i in np.argsort(share)[::-1] if moved[i] > _CLOSE * median
    ]  # fmt: skip
    return {
        "rmse": round(float(np.sqrt((errors**2).mean())), 5), "mean": round(float(errors.mean()), 5),
        "median": round(median, 5), "close": close,
    }  # fmt: skip


class Others(RowFile):
    """Rows of a sweep without some of its samples."""

    def __init__(self, folder: Path, close: set[int]) -> None:
        super().__init__(folder, json.loads((folder / "setting.json").read_bytes()))
        self._close = close

    def errors(self, row: SweepRow) -> NDArray[np.float64]:
        """Squared errors of those that are left."""
        return super().errors(row)[[seed not in self._close for seed in parse_seeds(row.seeds)]]


def compare(folder: Path, close: set[int]) -> dict[str, Any]:
    """RMSE of `best` as a multiple of the best published planner's, [mean, low, high]."""
    pairs = {pair.other: pair for pair in summarise_pairs(Others(folder, close), "best").pairs}
    found = pairs[BEST_PUBLISHED]
    shown = {f"{target:g}": found.ratios[target] for target in sorted(found.ratios)}
    shown |= {"geometric mean": found.geometric_mean, "typical sample": found.typical}
    return {
        name: [round(value, 3) for value in (part.mean, part.low, part.high)]
        for name, part in shown.items() if part is not None
    }  # fmt: skip


if __name__ == "__main__":
    main()
