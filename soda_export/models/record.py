"""What a bundle says of the diffusers module that it was made of: class, configuration and sizes, in denoiser.json."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import BundleError, InternalError
from .families import FAMILIES
from .family import Family, Size, Sizes
from .load import LoadedModel
from .published import AESTHETICS

RECORD_NAME = "denoiser.json"
_FORMAT, _VERSION = "soda-denoiser", 1
_PARTS = ("vae", "vocoder", "pipeline", AESTHETICS)
"""Parts of the pipeline that a family's sizes follow from."""


class DenoiserRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """kind: the module's class in diffusers. config: its configuration with defaults filled in. parts, text_tokens,
    size, latent_shape: as in Sizes. controls: how many ControlNets the bundle has built in."""

    format: str
    version: int
    kind: str
    config: dict[str, Any]
    parts: dict[str, Any]
    text_tokens: int
    size: Size
    latent_shape: tuple[int, ...]
    controls: int

    @property
    def sizes(self) -> Sizes:
        """What the family's record reads."""
        return Sizes(self.config, self.parts, self.text_tokens, self.size, self.latent_shape)

    @property
    def family(self) -> Family:
        """The family's record as this configuration has it, without ControlNets."""
        return FAMILIES[self.kind].adapt(FAMILIES[self.kind], self.config)


def record_bytes(loaded: LoadedModel) -> bytes:
    """denoiser.json of a model."""
    sizes = loaded.sizes
    if sizes is None:
        raise InternalError(f"{loaded.spec.name}: loaded without its sizes")
    parts = {name: sizes.parts[name] for name in _PARTS if name in sizes.parts}
    record = DenoiserRecord(
        _FORMAT, _VERSION, loaded.kind, dict(sizes.config), parts, sizes.text_tokens, sizes.size, sizes.latent_shape,
        len(loaded.controls),
    )  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=1) + b"\n"


def read_record(content: bytes, where: str) -> DenoiserRecord:
    """Raises BundleError."""
    try:
        record = msgspec.json.decode(content, type=DenoiserRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{where}: {error}; build the bundle again") from None
    known = record.format == _FORMAT and record.version == _VERSION and record.kind in FAMILIES
    if not known:
        found = f"{record.kind}, version {record.version}"
        raise BundleError(f"{where}: {found}, is not known here; build the bundle again")
    return record
