"""The digits judge: recognise 8x8 digit images and measure their Frechet distance to real ones.

Data: scikit-learn's bundled copy of the UCI "Optical Recognition of Handwritten Digits" test set
(1,797 images of 8x8 pixels in 0..16), split once into a training part and a held-out part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import frechet_distance

_SPLIT_SEED = 0
_HELD_OUT_SHARE = 0.2
_PCA_FEATURES = 16  # 360 held-out images determine a 16 x 16 covariance well; 64 pixels would be mostly noise


@dataclass(frozen=True)
class DigitsSplit:
    """Real digits as the model sees them: images float32 [n, 1, 8, 8] in -1..1, labels int64 [n]."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


@lru_cache(maxsize=1)
def load_digits_split() -> DigitsSplit:
    """Split the real digits, stratified by label; the same split in every process."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = (bunch.images / 8.0 - 1.0).astype(np.float32)[:, None]
    train_x, held_x, train_y, held_y = train_test_split(
        images, bunch.target.astype(np.int64), test_size=_HELD_OUT_SHARE, stratify=bunch.target,
        random_state=_SPLIT_SEED,
    )
    return DigitsSplit(train_x, train_y, held_x, held_y)


class DigitsJudge:
    """A classifier and a PCA basis, both fitted on the real training digits alone."""

    def __init__(self) -> None:
        from sklearn.decomposition import PCA
        from sklearn.svm import SVC

        split = load_digits_split()
        flat = _flatten(split.train_images)
        self._classifier = SVC(C=10.0, gamma=0.05).fit(flat, split.train_labels)
        self._features = PCA(_PCA_FEATURES, random_state=_SPLIT_SEED).fit(flat)
        self._held_out = split

    def held_out_accuracy(self) -> float:
        """Accuracy of the classifier on real digits it has not seen."""
        return self.accuracy(self._held_out.held_out_images, self._held_out.held_out_labels)

    def accuracy(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Share of images [n, 1, 8, 8] that are recognised as their label [n]."""
        return float(np.mean(self.recognised(images, labels)))

    def recognised(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each image [n, 1, 8, 8] is recognised as its label [n]."""
        return np.asarray(self._classifier.predict(_flatten(images)) == labels)

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """PCA features [n, 16] of images [n, 1, 8, 8]."""
        return np.asarray(self._features.transform(_flatten(images)))

    def held_out_features(self) -> NDArray[np.float64]:
        """PCA features of the held-out real digits."""
        return self.features(self._held_out.held_out_images)

    def frechet_to_held_out(self, images: NDArray[np.float32]) -> float:
        """Frechet distance (Heusel et al. 2017, eq. 6) to the held-out real digits, in PCA features."""
        return frechet_distance(self.features(images), self.held_out_features())


def _flatten(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, 1, 8, 8] -> [n, 64], clipped to the range of real images."""
    return np.clip(images, -1.0, 1.0).reshape(len(images), -1).astype(np.float64)
