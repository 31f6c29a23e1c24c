"""A bundle as a model of Triton's Python backend, whose interface is that of triton_python_backend_utils."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..bundle import Bundle
from .api_error import ApiError
from .images_request import read_images_request
from .merge import Pixels, Sample, judge_asked
from .player import BatchPlayer
from .servable import Servable, judge_bundle
from .triton_config import IMAGE, LABEL, input_tensors


class BundleModel:
    """Rows of Triton's requests are pictures of their own: row i is that of `Session.generate(seed=seed[i])`."""

    folder: ClassVar[Path]

    def initialize(self, args: dict[str, str]) -> None:
        """args: Triton's; of them the model configuration, for its greatest batch. Raises SodaError."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        self._most = int(json.loads(args["model_config"])["max_batch_size"])
        self._bundle = Bundle.open(self.folder)
        self._served = judge_bundle(self._bundle)
        self._player = BatchPlayer(self._bundle)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in their order; one that cannot be met has an error."""
        rows: list[list[Sample] | ApiError] = [self._samples(request) for request in requests]
        self._play([sample for samples in rows if isinstance(samples, list) for sample in samples])
        return [self._response(samples) for samples in rows]

    def finalize(self) -> None:
        """Triton unloads the model."""
        self._player.close()
        self._bundle.close()

    def _samples(self, request: Any) -> list[Sample] | ApiError:
        try:
            asked = [read_images_request(fields, self._served) for fields in self._rows(request)]
            if len({each.together.size for each in asked}) > 1:
                raise ApiError(400, "size: rows of one request are of one size; send a request for each", "size")
            for each in asked:
                judge_asked(each, self._bundle)
        except ApiError as error:
            return error
        return [Sample(each, 0, 0.0) for each in asked]

    def _rows(self, request: Any) -> Iterator[dict[str, Any]]:
        """Fields of the images API, of each row of a request's tensors."""
        given: dict[str, list[Any]] = {}
        for tensor in input_tensors(self._served):
            found = self._triton.get_input_tensor_by_name(request, tensor.name)
            if found is not None:
                values = found.as_numpy().reshape(-1).tolist()
                given[tensor.name] = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
        for values in zip(*given.values(), strict=True):
            yield _fields(dict(zip(given, values, strict=True)), self._served)

    def _play(self, samples: Sequence[Sample]) -> None:
        """Put pictures or errors into the samples, those together that can be."""
        def key(sample: Sample) -> str:
            return repr(sample.asked.together)

        for _, alike in groupby(sorted(samples, key=key), key):
            rest = list(alike)
            while rest:
                batch, rest = rest[: self._most], rest[self._most :]
                self._player.answer(batch)

    def _response(self, samples: list[Sample] | ApiError) -> Any:
        triton = self._triton
        if isinstance(samples, ApiError):
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(samples.message))
        try:
            pictures: list[Pixels] = [sample.picture.result() for sample in samples]
        except ApiError as error:
            return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(error.message))
        return triton.InferenceResponse(output_tensors=[triton.Tensor(IMAGE, np.stack(pictures))])


def _fields(row: dict[str, Any], served: Servable) -> dict[str, Any]:
    """A row's values under the images API's names; scalars are its inputs."""
    scalars = {port.name for port in served.scalars}
    fields = {name: value for name, value in row.items() if name not in scalars}
    if LABEL in fields:
        fields["labels"] = fields.pop(LABEL)
    return fields | ({"inputs": {name: row[name] for name in scalars if name in row}} if scalars else {})
