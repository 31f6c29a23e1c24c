"""Hand-made bundles of a few ONNX nodes, for what the golden bundles do not have, and the same computed in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from soda_runtime import Noise
from soda_runtime.manifest import (
    VERSION,
    Arena,
    LabelPort,
    Manifest,
    Model,
    PreparedTensor,
    PrepareProgram,
    Program,
    Sampler,
    Slot,
    Step,
    manifest_text,
)  # fmt: skip
from soda_runtime.signature import DTYPES, Port, Signature, coefficient_count, prepare_signature, step_signature

from .bundles import fix_hashes, safetensors_bytes

onnx = pytest.importorskip("onnx")
STEPS, SHAPE, CLASSES = 4, (1, 2, 2), 5
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Toy:
    """The model's prediction is e = s x + gain, its variance channels are e / 2. Steps 1 and 3 take e from the cache.

    gain: (label + 1) / 8, made once per request; with `windowed`, that times a table's row, for every step.
    fitted: the schedule has coefficients of its own. fresh: rows with which a run from given latents starts; -1: none
    can.
    """

    precision: str = "fp32"
    state_size: int = 1
    stochastic: bool = False
    learned: bool = False
    windowed: bool = False
    fitted: bool = False
    fresh: int = -1

    def start_tables(self) -> dict[str, Floats]:
        """Any numbers below one, the same ones every time."""
        if self.fresh < 0:
            return {}
        generator, columns = np.random.default_rng(2), coefficient_count(self.state_size, self.learned)
        levels = generator.uniform(0, 1, (STEPS, 3)).astype(np.float32)
        levels[:, 2] = 0
        rows = generator.uniform(-0.6, 0.6, (STEPS, self.fresh, columns)).astype(np.float32)
        return {"start.levels": levels} | ({"start.coefficients": rows} if self.fresh else {})

    def coefficients(self, accelerated: bool) -> Floats:
        """Any numbers below one, the same ones every time: the sampler's, or the schedule's own where it has some."""
        count = coefficient_count(self.state_size, self.learned)
        generator = np.random.default_rng(int(self.fitted and accelerated))
        return generator.uniform(-0.6, 0.6, (STEPS, count)).astype(np.float32)

    def manifest(self) -> Manifest:
        dtype: Any = DTYPES[self.precision]
        tensors = [PreparedTensor("gain", dtype, True, False, (1, 1))]
        prepare = [PrepareProgram("gain.onnx", "", ("labels",), (), ("gain",))]
        if self.windowed:
            tensors.append(PreparedTensor("scaled", dtype, True, True, (1, 1)))
            prepare.append(PrepareProgram("scaled.onnx", "", ("gain",), ("factor",), ("scaled",)))
        taken = ("scaled" if self.windowed else "gain",)
        steps = tuple(Step(i % 2, (0,) * (i % 2), (0,) * (1 - i % 2)) for i in range(STEPS))
        programs = (
            Program("compute.onnx", "", taken, (), ("0.m",), 1), Program("reuse.onnx", "", (), ("0.m",), (), 1),
            Program("baseline.onnx", "", taken, (), (), 1),
        )  # fmt: skip
        files = [p.file for p in (*prepare, *programs)] + ["empty.safetensors", "tables.safetensors"]
        return Manifest(
            "soda-bundle", VERSION, "toy", "ort", self.precision,  # type: ignore[arg-type]
            Model("toy", "toy", "", SHAPE, "latents", 1), (LabelPort("labels", "int64", (), "label", CLASSES, 0),), (),
            Sampler(
                "toy", STEPS, (1.0,) * STEPS, self.state_size, self.stochastic, self.learned, self.fitted, 2.0
            ),
            1, 1.0, 1.0, 0, tuple(tensors), tuple(prepare), (Slot("0.m", (1, 4), dtype),), programs, 2, steps, (),
            Arena(256, 256, 256),
            ("empty.safetensors",), "tables.safetensors", dict.fromkeys(files),  # type: ignore[misc]
        )  # fmt: skip

    def write(self, folder: Path) -> Path:
        """The bundle at `folder`."""
        folder.mkdir()
        manifest, tables = self.manifest(), {"coefficients": self.coefficients(True), **self.start_tables()}
        if self.fitted:
            tables["baseline_coefficients"] = self.coefficients(False)
        if self.windowed:
            tables["factor"] = _factor()
        header, data = {}, b""
        for name, table in tables.items():
            offsets = [len(data), len(data) + table.nbytes]
            header[name] = {"dtype": "F32", "shape": list(table.shape), "data_offsets": offsets}
            data += table.tobytes()
        (folder / "tables.safetensors").write_bytes(safetensors_bytes(header, data))
        (folder / "empty.safetensors").write_bytes(safetensors_bytes({}))
        shapes = {name: table.shape for name, table in tables.items()}
        for program in manifest.prepare:
            _save(folder / program.file, prepare_signature(manifest, program, shapes), _prepare_nodes(program))
        for index, step in enumerate(manifest.programs):
            _save(folder / step.file, step_signature(manifest, index), self._step_nodes(step))
        (folder / "manifest.json").write_text(manifest_text(manifest))
        fix_hashes(folder)
        return folder

    def _step_nodes(self, program: Program) -> list[str]:
        n = self.state_size
        a, b, c = 1 + n * n, 1 + n * n + n, 1 + n * n + 2 * n
        nodes = [
            "zero = Constant <value_ints=[0]> ()", "x = Gather (state, zero)", "x0 = Squeeze (x, zero)",
            *_slice("s", "coefficients", 0, 1), *_slice("flat_a", "coefficients", 1, a),
            *_slice("b", "coefficients", a, b), *_slice("c", "coefficients", b, c),
            f"square = Constant <value_ints=[{n}, {n}]> ()", "a = Reshape (flat_a, square)",
            f"column = Constant <value_ints=[{n}, 1, 1, 1, 1]> ()", "b5 = Reshape (b, column)",
            "c5 = Reshape (c, column)",
            f"wide = Constant <value_ints=[{n}, -1]> ()", "flat = Reshape (state, wide)",
            "mixed_flat = MatMul (a, flat)", "full = Shape (state)", "mixed = Reshape (mixed_flat, full)",
        ]  # fmt: skip
        if program.reads:
            nodes += [
                "cached = Cast <to=1> (cache__0__m)", "latents = Constant <value_ints=[-1, 1, 2, 2]> ()",
                "e = Reshape (cached, latents)",
            ]  # fmt: skip
        else:
            gain = program.inputs[0]
            nodes += [
                "sx = Mul (s, x0)", f"g = Cast <to=1> ({gain})", "three = Constant <value_ints=[3]> ()",
                "g4 = Unsqueeze (g, three)", "e = Add (sx, g4)",
            ]  # fmt: skip
        if program.writes:
            nodes += [
                "slot = Constant <value_ints=[-1, 1, 4]> ()", "e3 = Reshape (e, slot)",
                f"cache_out__0__m = Cast <to={_element(DTYPES[self.precision])}> (e3)",
            ]  # fmt: skip
        nodes += ["be = Mul (b5, e)", f"{'moved' if self.stochastic else 'state_out'} = Add (mixed, be)"]
        if self.stochastic:
            nodes += self._noise_nodes(c)
        return nodes

    def _noise_nodes(self, end: int) -> list[str]:
        if not self.learned:
            return ["cn = Mul (c5, noise)", "state_out = Add (moved, cn)"]
        return [
            *_slice("low", "coefficients", end, end + 1), *_slice("high", "coefficients", end + 1, end + 2),
            "half = Constant <value_float=0.5> ()", "one = Constant <value_float=1.0> ()", "v = Mul (e, half)",
            "v1 = Add (v, one)", "f = Mul (v1, half)", "rest = Sub (one, f)", "fh = Mul (f, high)",
            "rl = Mul (rest, low)", "log = Add (fh, rl)", "half_log = Mul (log, half)", "std = Exp (half_log)",
            "scaled_noise = Mul (std, noise)", "cn = Mul (c5, scaled_noise)", "state_out = Add (moved, cn)",
        ]  # fmt: skip

    def play(
        self, labels: list[int], noise: Noise, accelerated: bool = True, first: int = 0, latents: Floats | None = None
    ) -> Floats:
        """What the bundle must give. latents: those that the run starts from, at step `first`."""
        n, table = self.state_size, self.coefficients(accelerated and latents is None)
        z = np.zeros((n, len(labels), *SHAPE), np.float32)
        z[0] = noise.initial * np.float32(2.0)
        if latents is not None:
            tables = self.start_tables()
            z[0] = tables["start.levels"][first, 0] * latents + tables["start.levels"][first, 1] * noise.initial
            for w in range(min(self.fresh, STEPS - first)):
                table[first + w] = tables["start.coefficients"][first, w]
        gain = rounded((np.array(labels, np.float32).reshape(-1, 1, 1, 1) + 1) / 8, self.precision)
        cached = np.zeros(0, np.float32)
        for i, row in enumerate(table):
            if i < first:
                continue
            reuses = accelerated and i % 2 and i > first
            g = rounded(gain * _factor()[i, 0], self.precision) if self.windowed else gain
            e = cached if reuses else row[0] * z[0] + g
            cached = e if reuses else rounded(e, self.precision)
            a, b, c = row[1 : 1 + n * n].reshape(n, n), row[1 + n * n :][:n], row[1 + n * n + n :][:n]
            z = np.einsum("jk,k...->j...", a, z) + np.multiply.outer(b, e)
            if self.stochastic:
                assert noise.steps is not None
                f = (e / 2 + 1) / 2
                std = np.exp(0.5 * (f * row[-1] + (1 - f) * row[-2])) if self.learned else np.float32(1)
                z += np.multiply.outer(c, std * noise.steps[i])
        return z[0]


def _factor() -> Floats:
    return np.linspace(0.5, 2.0, STEPS, dtype=np.float32).reshape(STEPS, 1)


def rounded(values: Floats, precision: str) -> Floats:
    """float32 values as that precision stores them, to nearest even."""
    if precision == "bf16":
        bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
        bits = bits + 0x7FFF + (bits >> 16 & 1)
        return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values.astype(np.float16 if precision == "fp16" else np.float32).astype(np.float32)


def _prepare_nodes(program: PrepareProgram) -> list[str]:
    if program.tables:  # window x 1 times rows x 1 x 1
        return [
            "axes = Constant <value_ints=[1, 2]> ()", "t = Unsqueeze (factor, axes)", "g = Cast <to=1> (gain)",
            "made = Mul (t, g)", "scaled = Cast <to=TYPE> (made)",
        ]  # fmt: skip
    return [
        "f = Cast <to=1> (labels)", "one = Constant <value_float=1.0> ()", "eighth = Constant <value_float=0.125> ()",
        "more = Add (f, one)", "small = Mul (more, eighth)", "axes = Constant <value_ints=[1, 2]> ()",
        "column = Unsqueeze (small, axes)", "gain = Cast <to=TYPE> (column)",
    ]  # fmt: skip


def _slice(name: str, source: str, begin: int, end: int) -> list[str]:
    return [
        f"{name}_begin = Constant <value_ints=[{begin}]> ()", f"{name}_end = Constant <value_ints=[{end}]> ()",
        f"{name} = Slice ({source}, {name}_begin, {name}_end)",
    ]  # fmt: skip


def _element(dtype: str) -> int:
    return {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}[dtype]


def _save(path: Path, signature: Signature, nodes: list[str]) -> None:
    """A graph of these inputs, outputs and nodes; `__` in a name stands for a dot."""

    def declared(ports: dict[str, Port]) -> list[Any]:
        return [onnx.helper.make_tensor_value_info(n, _element(p.dtype), p.shape) for n, p in ports.items()]

    dtype = next(iter(signature.outputs.values())).dtype
    text = "toy () => () {\n" + "\n".join(nodes).replace("TYPE", str(_element(dtype))) + "\n}"
    graph = onnx.parser.parse_graph(text)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", ".") for name in names]
    del graph.input[:], graph.output[:]
    graph.input.extend(declared(signature.inputs))
    graph.output.extend(declared(signature.outputs))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
