"""A request's labels and embeddings as values of the bundle's ports, and whether all ports are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .errors import RequestError
from .manifest import (
    EmbeddingPort,
    LabelPort,
    Manifest,
    MaskPort,
    PrepareProgram,
    RequestPort,
    ScalarPort,
    TokenIdsPort,
    TokenMaskPort,
)
from .request import Embeds, Request
from .signature import encoders
from .values import brief

MAX_BATCH = 65536
_EMBEDS_FIELDS = (
    ("prompt_embeds", "negative_prompt_embeds"), ("prompt_attention_mask", "negative_prompt_attention_mask"),
    ("pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
)  # fmt: skip


def name_inputs(request: Request, manifest: Manifest) -> Request:
    """The same request with labels and embeds as inputs by their ports' names."""
    inputs, negative, embeds = dict(request.inputs), dict(request.negative_inputs), request.embeds
    found: list[tuple[str, object, object]] = []
    if request.labels is not None:
        labels = [port for port in manifest.ports if isinstance(port, LabelPort)]
        found.append((_only(labels, "labels", manifest), request.labels, None))
    if embeds is not None:
        if not isinstance(embeds, Embeds):
            raise RequestError(f"embeds is {type(embeds).__name__}; give soda_runtime.Embeds(...)")
        for fields, ports in zip(_EMBEDS_FIELDS, _embeds_ports(manifest), strict=True):
            values = getattr(embeds, fields[0])
            if values is not None:
                found.append((_only(ports, fields[0], manifest), values, getattr(embeds, fields[1])))
    for name, values, unconditional in found:
        if name in inputs:
            raise RequestError(f"{name} is given twice")
        inputs[name] = values
        if unconditional is not None and manifest.rows_per_sample == 2:
            negative[name] = unconditional
    for name in (*inputs, *negative):
        if name not in {port.name for port in manifest.ports}:
            takes = ", ".join(port.name for port in manifest.ports) or "none"
            raise RequestError(f"input {brief(name)} is no port of this bundle; it has {takes}")
    return replace(request, labels=None, embeds=None, inputs=inputs, negative_inputs=negative)


def running_encoders(request: Request, manifest: Manifest) -> list[PrepareProgram]:
    """Encoders whose outputs are not given."""
    running = []
    for program in encoders(manifest):
        missing = [name for name in program.outputs if name not in request.inputs]
        if missing and len(missing) < len(program.outputs):
            raise RequestError(f"{missing[0]} is missing, which {program.file} makes with others that are given")
        if missing:
            running.append(program)
    return running


def require_all(request: Request, manifest: Manifest, running: Sequence[PrepareProgram]) -> None:
    """Every port is there but those that encoders make, or encoders alone take that do not run."""
    made = {name for program in running for name in program.outputs}
    made_by = encoders(manifest)
    left_out = {name for program in made_by if program not in running for name in program.inputs}
    taken = [program.inputs for program in manifest.programs]
    taken += [program.inputs for program in manifest.prepare if program in running or program not in made_by]
    left_out.difference_update(*taken)
    for port in manifest.ports:
        is_token = isinstance(port, (TokenIdsPort, TokenMaskPort))
        is_given = port.name in request.inputs
        if is_token and request.prompt is not None and is_given:
            raise RequestError(f"give either a prompt or {port.name}")
        if isinstance(port, TokenIdsPort) and is_given and port.name in left_out:
            raise RequestError(f"{port.name} have no effect beside embeddings; give one of them")
        is_there = is_given or isinstance(port, ScalarPort) or (is_token and request.prompt is not None)
        if not is_there and port.name not in made | left_out:
            raise RequestError(f"{_wanted(port)}; this bundle takes {port.name}")
    for name in request.negative_inputs:
        if name not in request.inputs:
            raise RequestError(f"the negative of {name} has no effect without {name}")


def _embeds_ports(manifest: Manifest) -> tuple[list[RequestPort], ...]:
    """Ports that the fields of Embeds may mean: embeddings of tokens, masks (an encoder's before a tokenizer's), pooled
    embeddings."""
    embeddings = [port for port in manifest.ports if isinstance(port, EmbeddingPort)]
    masks: list[RequestPort] = [port for port in manifest.ports if isinstance(port, MaskPort)]
    return (
        [port for port in embeddings if len(port.shape) > 1],
        masks or [port for port in manifest.ports if isinstance(port, TokenMaskPort)],
        [port for port in embeddings if len(port.shape) == 1],
    )


def _only(ports: Sequence[RequestPort], field: str, manifest: Manifest) -> str:
    """The name of the one port that an argument may mean."""
    if len(ports) == 1:
        return ports[0].name
    takes = ", ".join(port.name for port in manifest.ports) or "no ports"
    if field == "labels" and not ports:
        raise RequestError(f"this bundle is not conditioned on labels; it takes {takes}")
    if not ports:
        raise RequestError(f"this bundle takes no {field}; it takes {takes}")
    raise RequestError(f"this bundle has {len(ports)} ports for {field}; give `inputs` by name: {takes}")


def _wanted(port: RequestPort) -> str:
    if isinstance(port, LabelPort):
        return "labels are missing, one or one per sample"
    return "give a prompt or embeddings" if isinstance(port, (TokenIdsPort, TokenMaskPort)) else "an input is missing"
