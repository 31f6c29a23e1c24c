"""What samples are conditioned on while a model is profiled, planned for and fitted: prompts and ControlNets' hints."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soda_runtime.checks import sha256_of

from ..eager.conditions import (
    DEFAULT_PROMPTS,
    Conditions,
    own_conditions,
    random_texts,
    read_prompts,
    read_texts,
    text_ports,
)
from ..eager.hints import hint_files, hint_ports, noise_hints, picture_ports, read_hints
from ..errors import UsageError
from ..models.load import LoadedModel
from ..options import ProfileOptions
from .components import ComponentMaker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """The conditions of one model as its options say: sample i takes prompt i and hint i, each in turn.

    Raises UsageError where an option does not suit the model.
    """

    loaded: LoadedModel
    components: ComponentMaker
    rows: int
    options: ProfileOptions

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """None for class labels, given embeddings, or without a text encoder."""
        options, is_text = self.options, bool(text_ports(self.loaded.spec))
        if not is_text and (options.prompts or options.profile_embeds):
            raise UsageError("--prompts and --profile-embeds are for text models; this one takes class labels")
        if options.prompts is not None and options.profile_embeds is not None:
            raise UsageError("--prompts and --profile-embeds: give one of them")
        if options.prompts is not None and not self.components.has_text_encoder:
            raise UsageError(f"--prompts {options.prompts}: the model has no text encoder; give --profile-embeds")
        if options.profile_embeds is not None and not options.profile_embeds.is_file():
            raise UsageError(f"--profile-embeds {options.profile_embeds}: no such file")
        if not is_text or not self.components.has_text_encoder or options.profile_embeds is not None:
            return ()
        own = None if self.loaded.folder is None else self.loaded.folder / "prompts.txt"
        path = options.prompts or (own if own is not None and own.is_file() else None)
        return tuple(DEFAULT_PROMPTS) if path is None else tuple(read_prompts(path))

    @property
    def key(self) -> dict[str, Any]:
        """What the results of a stage depend on."""
        texts: list[str] = list(self.prompts[: self.options.samples])
        if self.options.profile_embeds is not None:
            texts = [f"sha256 {sha256_of(self.options.profile_embeds)}"]
        key: dict[str, Any] = {"texts": texts, "text_encoder": self.components.text_hashes if texts else {}}
        folder, ports = self._hints_folder, hint_ports(self.loaded.spec)
        files = {} if folder is None else hint_files(folder, picture_ports(ports))
        if files:
            key["hints"] = {port: [sha256_of(path) for path in paths] for port, paths in files.items()}
        if len(files) < len(ports) or (text_ports(self.loaded.spec) and not texts):
            key["noise"] = {"samples": self.options.samples, "seed": self.options.seed}
        return key

    def conditions(self) -> Conditions:
        """Of all ports."""
        spec, options = self.loaded.spec, self.options
        made = own_conditions(spec) | self._hints()
        if not text_ports(spec):
            return made
        if options.profile_embeds is not None:
            return made | read_texts(options.profile_embeds, spec, negative=self.rows == 2)
        if self.prompts:
            return made | self.components.encode(list(self.prompts[: options.samples]))
        log.warning("profile: no text encoder at hand, so random embeddings are used; --profile-embeds gives real ones")
        return made | random_texts(spec, options.samples, options.seed)

    def _hints(self) -> Conditions:
        ports, options = hint_ports(self.loaded.spec), self.options
        pictures = picture_ports(ports)
        made = noise_hints(ports, options.samples, options.seed)
        if self._hints_folder is not None:
            return Conditions({**made, **read_hints(self._hints_folder, pictures)}, {})
        if pictures:
            log.warning("profile: hints are pictures of noise; --hints gives real ones")
        if len(pictures) < len(ports):
            log.warning("profile: masks are squares, and the masked latents around them noise")
        return Conditions(made, {})

    @property
    def _hints_folder(self) -> Path | None:
        """The one that was asked for, else what came with the ControlNet."""
        asked, ports = self.options.hints, picture_ports(hint_ports(self.loaded.spec))
        if asked is not None and not ports:
            raise UsageError(f"--hints {asked}: this model has no ControlNet; give one with --controlnet")
        folders = [control.folder for control in self.loaded.controls]
        if asked is not None or len(folders) != 1 or folders[0] is None:
            return asked
        own = folders[0] / "hints"
        return own if own.is_dir() else None
