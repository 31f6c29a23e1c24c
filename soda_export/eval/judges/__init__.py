"""What a model's pictures, clips and sounds can be judged by, beside their distance from the unaccelerated ones.

A judge looks at them alone: it knows real ones, and what each seed was asked for. Models that come with none have RMSE
and PSNR.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..worlds import CLIPS, DRAWS_SCENES, TONES

log = logging.getLogger(__name__)
_DIGITS = "digits"
_SCENES_LATENTS = ((4, 16, 16), (64, 16))  # of 64 x 64 pixels: as they are, and packed as FLUX has them
_CLIPS_LATENTS, _TONES_LATENTS = (4, 4, 16, 16), (8, 8, 16)


class Judge(Protocol):
    """Judges pictures [n, C, H, W] or clips [n, frames, C, H, W] in 0..1."""

    def features(self, made: NDArray[np.float32]) -> NDArray[np.float64]:
        """What Frechet distances are measured in: [n, d]."""

    def real_features(self) -> NDArray[np.float64]:
        """The same of real ones that no training saw: [m, d]."""

    def verdicts(self, made: NDArray[np.float32], seeds: range) -> NDArray[np.bool_]:
        """Whether each shows what its seed was asked for: [n]."""

    def overlaps(self, made: NDArray[np.float32], seeds: range) -> NDArray[np.float64] | None:
        """How much of what each shows is where a ControlNet was told to, 0..1: [n]; None where nothing told."""


def find_judge(name: str, latent_shape: tuple[int, ...], *, is_steered: bool = False) -> Judge | None:
    """The judge of a model by its name and size, if it has one. is_steered: whether ControlNets get the silhouettes of
    what the prompts say."""
    if name in DRAWS_SCENES and latent_shape in _SCENES_LATENTS:
        from .scenes import ScenesJudge

        return ScenesJudge(is_steered)
    if (name, latent_shape) == (CLIPS, _CLIPS_LATENTS):
        from .clips import ClipsJudge

        return ClipsJudge()
    if (name, latent_shape) == (TONES, _TONES_LATENTS):
        from .tones import TonesJudge

        return TonesJudge()
    if (name, latent_shape) == (_DIGITS, (1, 8, 8)):
        from .digits import DigitsModelJudge

        try:
            return DigitsModelJudge()
        except ModuleNotFoundError:
            log.warning("eval: accuracy and Frechet distance of digits need scikit-learn; "
                        "pip install 'soda-export[metrics]'")  # fmt: skip
    return None
