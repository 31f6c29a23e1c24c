"""Fields of a soda_request: of the Python runtime's arguments, of golden requests and of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from soda_runtime import Bundle, Embeds
from soda_runtime.request import example_request

from tests.runtime.bundles import GOLDEN_V5, golden_request


def fields_of(request: Mapping[str, Any], bundle: Any) -> dict[str, Any]:
    """A request to the Python runtime in the fields of C++: token ids in the place of texts, ports of their types."""
    plain = (
        "seed", "labels", "guidance", "start_latents", "strength", "start_step", "policy", "vote", "decisions"
    )  # fmt: skip
    fields = {name: request[name] for name in plain if name in request}
    fields["has_guidance"] = int("guidance" in request)
    fields["baseline"] = int(not request.get("accelerated", True))
    fields["samples"] = request.get("batch", 0)
    if "prompt" in request:
        prompts = [request["prompt"]] if isinstance(request["prompt"], str) else request["prompt"]
        negative = request.get("negative_prompt", "")
        negatives = [negative] if isinstance(negative, str) else negative
        fields["token_ids"], fields["token_mask"], _ = bundle.tokenize(0, prompts)
        fields["negative_token_ids"], fields["negative_token_mask"], _ = bundle.tokenize(0, negatives)
        fields |= {"num_prompts": len(prompts), "num_negatives": len(negatives)}
    if "embeds" in request:
        fields |= embeds_fields(request["embeds"])
    dtypes = {port.name: port.dtype for port in bundle.manifest.ports}
    values = {**request.get("inputs", {}), **{"-" + n: v for n, v in request.get("negative_inputs", {}).items()}}
    fields["ports"] = {name: np.atleast_1d(np.asarray(v, dtypes[name.removeprefix("-")])) for name, v in values.items()}
    return fields


def golden_fields() -> dict[str, Any]:
    """The stored request to the golden bundle of version 5."""
    return fields_of(golden_request(GOLDEN_V5), Bundle.open(GOLDEN_V5, backend="null"))


def example_embeds(bundle: Any, samples: int) -> Embeds:
    """Those of the example request to a bundle with one port of embeddings and one of masks."""
    values, mask = (example_request(bundle, samples)["inputs"][name] for name in ("embeds", "attention_mask"))
    return Embeds(values, mask, values[:1], mask[:1])


def embeds_fields(embeds: Embeds) -> dict[str, Any]:
    negative = embeds.negative_prompt_embeds
    fields = {
        "embeds": embeds.prompt_embeds, "token_mask": embeds.prompt_attention_mask,
        "negative_embeds": negative, "negative_token_mask": embeds.negative_prompt_attention_mask,
        "num_prompts": len(embeds.prompt_embeds), "num_negatives": 0 if negative is None else len(negative),
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}
