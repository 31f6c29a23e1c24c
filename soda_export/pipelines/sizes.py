"""Height and width of a call in pixels -> the bundle at that size."""

from __future__ import annotations

from soda_runtime.opened import OpenedBundle

from ..errors import RequestError
from ..models.record import RECORD_NAME, read_record


def choose_size(
    bundle: OpenedBundle, height: int | None, width: int | None
) -> tuple[OpenedBundle, tuple[int, int]]:
    """The bundle at the size that a call asks for, and that size, zeros where it is not known. What is None is that of
    the bundle's first size. Raises RequestError for a size that is not there."""
    first = bundle.at(next(iter(bundle.sizes), None))
    own = _pixels(first)
    asked = (own[0] if height is None else height, own[1] if width is None else width)
    if asked == own:
        return first, own
    if asked in bundle.sizes:
        return bundle.at(asked), asked
    known = ", ".join("{}x{}".format(*size) for size in bundle.sizes or (own,) if all(size))
    given = " and ".join(f"{name}={side}" for name, side in (("height", height), ("width", width)) if side is not None)
    raise RequestError(
        f"{given}: the bundle makes {known or 'a size that it does not say'} (height x width); leave it out, or build "
        "one with --size"
    )


def _pixels(bundle: OpenedBundle) -> tuple[int, int]:
    """Height and width of what a bundle makes, zeros where it does not say."""
    if bundle.size is not None:
        return bundle.size
    manifest = bundle.manifest
    if manifest.finish or RECORD_NAME not in manifest.files:
        return 0, 0
    record = read_record((bundle.folder / RECORD_NAME).read_bytes(), str(bundle.folder / RECORD_NAME))
    if record.size.height:
        return record.size.height, record.size.width
    if len(record.latent_shape) < 3:
        return 0, 0
    return tuple(side * record.sizes.pixels_per_latent for side in record.latent_shape[-2:])  # type: ignore[return-value]
