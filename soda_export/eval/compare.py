"""Compare samples with the unaccelerated ones of the same seeds, batch by batch: one row of scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..networks import Networks
from .judges import Judge
from .metrics import Interval, frechet, mean, psnr, rmse, sample_errors, share
from .sample import Drawn, SampleSource, batches


class Scores(msgspec.Struct, frozen=True):
    """Accelerated samples against unaccelerated ones with the same noise; None where the model has no such judge.

    rmse: of latents. psnr: of images, in dB; of latents where nothing decodes them. frechet_real, frechet_reference: in
    the judge's features, to real pictures and to the unaccelerated ones. accuracy, accuracy_reference: share of
    samples that show what was asked for, of both. overlap, overlap_reference: how much of it is where ControlNets were
    told to, intersection over union. The rest are optional networks': fid_reference in Inception's features, clip_score
    and clip_score_reference, lpips. calls: of the model in a run, where a policy decides.
    """

    rmse: Interval
    psnr: Interval
    frechet_real: Interval | None = None
    frechet_reference: Interval | None = None
    accuracy: Interval | None = None
    accuracy_reference: Interval | None = None
    overlap: Interval | None = None
    overlap_reference: Interval | None = None
    fid_reference: Interval | None = None
    clip_score: Interval | None = None
    clip_score_reference: Interval | None = None
    lpips: Interval | None = None
    calls: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """Scores, and the mean squared error of each sample's latents [n], which paired comparisons need."""

    scores: Scores
    errors: NDArray[np.float64]


def compare_samples(
    accelerated: SampleSource, reference: SampleSource, seeds: range, batch: int, *, judge: Judge | None = None,
    networks: Networks = Networks(), progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:  # fmt: skip
    """Draw the seeds of both, `batch` at a time, and score them; pictures are not kept. progress(done, total) counts
    samples."""
    tally = _Tally(judge, networks)
    for part in batches(seeds, batch):
        tally.add(accelerated.draw(part), reference.draw(part), part)
        progress(part.stop - seeds.start, len(seeds))
    return tally.compared()


class _Tally:
    """What was seen so far, a number or a row for each sample under each name."""

    def __init__(self, judge: Judge | None, networks: Networks) -> None:
        self._judge, self._networks = judge, networks
        self._seen: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        self._low, self._high = np.inf, -np.inf

    def add(self, found: Drawn, exact: Drawn, seeds: range) -> None:
        """One batch of both."""
        self._keep("latents", sample_errors(found.latents, exact.latents))
        self._low = min(self._low, float(exact.latents.min()))
        self._high = max(self._high, float(exact.latents.max()))
        if found.calls is not None:
            self._keep("calls", found.calls)
        if found.images is None or exact.images is None:
            if self._networks != Networks():
                raise UsageError("--inception, --clip and --lpips judge pictures; nothing decodes this model's latents")
            return
        self._keep("images", sample_errors(found.images, exact.images))
        pairs = (("accelerated", found.images), ("reference", exact.images))
        for name, images in pairs:
            if self._judge is not None:
                self._keep(f"features {name}", self._judge.features(images))
                self._keep(f"verdicts {name}", self._judge.verdicts(images, seeds))
                overlaps = self._judge.overlaps(images, seeds)
                if overlaps is not None:
                    self._keep(f"overlaps {name}", overlaps)
            if self._networks.inception is not None:
                self._keep(f"inception {name}", self._networks.inception(images))
            if self._networks.clip is not None:
                if not found.prompts:
                    raise UsageError("--clip: compares pictures with prompts, and this model was given none")
                self._keep(f"clip {name}", self._networks.clip(images, found.prompts))
        if self._networks.lpips is not None:
            self._keep("lpips", self._networks.lpips(found.images, exact.images))

    def compared(self) -> Comparison:
        """The scores of all batches."""
        errors, seen = self._all("latents"), self._seen
        real = None if self._judge is None or "features accelerated" not in seen else self._judge.real_features()
        scores = Scores(
            rmse=rmse(errors),
            psnr=psnr(self._all("images")) if "images" in seen else psnr(errors, self._high - self._low),
            frechet_real=None if real is None else frechet(self._all("features accelerated"), real, paired=False),
            frechet_reference=self._distance("features"),
            accuracy=self._share("verdicts accelerated"), accuracy_reference=self._share("verdicts reference"),
            overlap=self._mean("overlaps accelerated"), overlap_reference=self._mean("overlaps reference"),
            fid_reference=self._distance("inception"),
            clip_score=self._mean("clip accelerated"), clip_score_reference=self._mean("clip reference"),
            lpips=self._mean("lpips"), calls=self._mean("calls"),
        )  # fmt: skip
        return Comparison(scores, errors)

    def _keep(self, name: str, values: NDArray[np.generic]) -> None:
        self._seen[name].append(values.astype(np.float64))

    def _all(self, name: str) -> NDArray[np.float64]:
        return np.concatenate(self._seen[name])

    def _mean(self, name: str) -> Interval | None:
        return mean(self._all(name)) if name in self._seen else None

    def _share(self, name: str) -> Interval | None:
        return share(self._all(name) > 0.5) if name in self._seen else None

    def _distance(self, name: str) -> Interval | None:
        """Frechet distance to the reference's features of that name."""
        if f"{name} accelerated" not in self._seen:
            return None
        return frechet(self._all(f"{name} accelerated"), self._all(f"{name} reference"), paired=True)
