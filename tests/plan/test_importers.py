"""Files of cache-dit, ECAD, stable-diffusion.cpp and DPCache become schedules, or are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soda_export.errors import PlanError
from soda_export.models.decisions import COMPUTE, IDLE
from soda_export.models.identity import ModelIdentity, identify
from soda_export.plan.interchange import READERS, Source
from soda_export.plan.interchange.cache_dit_masks import named_mask
from tests.plan.problems import DIGITS, SHAPES, at

DATA = Path(__file__).parents[1] / "data"
MODEL, TEXT_MODEL = identify(DIGITS), identify(SHAPES)
FLUX = ModelIdentity(
    "flux", "5" * 64,
    {"joint_attn": ("transformer_blocks.0.attn",), "ff": ("transformer_blocks.0.ff",),
     "ff_context": ("transformer_blocks.0.ff_context",), "single": ("single_transformer_blocks.0.proj_out",),
     "stack": ("single_transformer_blocks.0",)},
    {"joint_attn": (0,), "ff": (1,), "ff_context": (2,), "single": (3,), "stack": (4,)},
)  # fmt: skip


def read(source: Source, content: bytes | str, model: ModelIdentity, steps: int, ones: Any = "computed") -> Any:
    """The schedule's work, [S, K]."""
    content = content.encode() if isinstance(content, str) else content
    return READERS[source](content, model, steps, ones).work


# what `steps_mask` of cache-dit f86744af gives
@pytest.mark.parametrize(
    ("name", "steps", "mask"),
    [
        ("slow", 4, "1101"), ("medium", 9, "111110101"), ("fast", 12, "111010010011"),
        ("ultra", 12, "110100100011"), ("slow", 20, "11111111011100111001"), ("fast", 20, "11111101000000000001"),
        ("slow", 28, "1111111101110011100110010001"), ("medium", 28, "1111110110001100011000110001"),
        ("fast", 28, "1111110100010000100000100001"), ("ultra", 28, "1111001000001000000100000001"),
        ("slow", 50, "11111111111111111111110011111000111110001110001101"),
        ("ultra", 50, "11111110001100000000011000000000001100000000000001"),
    ],
)  # fmt: skip
def test_named_masks_are_cache_dits(name: str, steps: int, mask: str) -> None:
    assert "".join(map(str, named_mask(name, steps))) == mask


@given(st.sampled_from(["slow", "medium", "fast", "ultra"]), st.integers(8, 400))
def test_a_named_mask_begins_and_ends_with_a_computed_step(name: str, steps: int) -> None:
    mask = named_mask(name, steps)
    assert len(mask) == steps
    assert mask[0] == mask[-1] == 1


def test_a_configuration_keeps_its_first_blocks_computed_and_forecasts_the_others() -> None:
    work = read("cache-dit", (DATA / "cache-dit/scm_fast.yaml").read_bytes(), TEXT_MODEL, 28)
    mask = np.array([int(one) for one in "1111110100010000100000100001"], bool)
    first = [k for k in range(len(TEXT_MODEL.names)) if TEXT_MODEL.names[k].startswith("transformer_blocks.0.")]
    others = [k for k in SHAPES.leaves if k not in first]
    assert (work[:, first] == COMPUTE).all()
    assert (work[mask] == COMPUTE).all()
    assert (work[~mask][:, others] == -1).all()  # TaylorSeer of order 1


def test_the_last_blocks_of_a_configuration_compute_too() -> None:
    content = "steps_computation_mask: '10'\nFn_compute_blocks: 1\nBn_compute_blocks: 2\n"
    work = read("cache-dit", content, MODEL, 2)
    cached = {name for name, does in zip(MODEL.names, work[1], strict=True) if does == 0}
    assert cached == {f"transformer_blocks.{block}.{part}" for block in (1, 2, 3) for part in ("attn1", "ff")}


def test_a_mask_without_static_policy_says_that_its_zeros_are_taken_as_cached(caplog: Any) -> None:
    content = "steps_computation_mask: [1, 0]\nFn_compute_blocks: 1\nsteps_computation_policy: {}\n"
    read("cache-dit", content.format("static"), MODEL, 2)
    assert not caplog.messages
    read("cache-dit", content.format("dynamic"), MODEL, 2)
    assert "residual_diff_threshold" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DATA / "cache-dit/cache.yaml", "residual_diff_threshold decides at run time"),
        (DATA / "cache-dit/combined.yaml", "residual_diff_threshold decides at run time"),
        (DATA / "cache-dit/cache_foca.yaml", "residual_diff_threshold decides at run time"),
        (DATA / "cache-dit/cache_config_dbp.yaml", "cache_type: 'DBPrune' decides at run time"),
        ("steps_computation_mask: [1, 0]\nenable_foca: true\n", "enable_foca: FoCa's forecasts"),
        ("steps_computation_mask: [1, 0]\nenable_dmd: true\n", "enable_dmd: DMD fits"),
        ("steps_computation_mask: fastest\n", "'fastest': no mask of cache-dit's; there are slow, medium"),
        ("steps_computation_mask: fast\n", "cache-dit has no mask of that name for 2 steps"),
        ("steps_computation_mask: fast\nnum_inference_steps: 28\n", "is 28, the sampler has 2 steps; pass --steps 28"),
        ("steps_computation_mask: [1, 0]\n", "Fn_compute_blocks 8 and Bn_compute_blocks 0: leave none of the 6"),
        ("steps_computation_mask: [1, 0]\nFn_compute_blocks: -1\n", "Fn_compute_blocks: is -1, not a whole number"),
        ("steps_computation_mask: [1, 0]\nenable_taylorseer: true\ntaylorseer_order: 3\n", "forecasts of order 2"),
        ("steps_computation_mask: [0, 1]\n", "if ones mark what is cached, pass --ones cached"),
        ("a: 1\na: 2\n", "line 2: a key that is no word, or stands twice"),
        ("a: &x [1]\nb: *x\n", "line 2: aliases are not read"),
        ("a: !!python/object:os.system x\n", "line 1: a value of type"),
        ("a: [1\n", "not valid YAML (line"),
        ("a: 2001-01-01\n", "a value of type 'tag:yaml.org,2002:timestamp'"),
        ("[" * 5000, "not valid YAML"),
        (b"\xff\xfe", "not a text in UTF-8"),
    ],
)
def test_a_configuration_that_cannot_be_frozen_is_refused(content: Any, message: str) -> None:
    content = content.read_bytes() if isinstance(content, Path) else content
    with pytest.raises(PlanError) as raised:
        read("cache-dit", content, MODEL, 2)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def ecad(steps: list[Any]) -> str:
    """ECAD's file."""
    named = {f"{number:03}": step for number, step in enumerate(steps)}
    return json.dumps({"cache_schedule": {"num_blocks": 6, "schedule": named}, "config": {"height": 256}})


def block(*ones: bool) -> dict[str, bool]:
    return dict(zip(("attn1", "attn2", "ff"), ones, strict=True))


def test_ecads_components_are_sites() -> None:
    steps = [[block(True, True, True)] * 6, [*[block(True, False, True)] * 5, block(False, True, False)]]
    work = read("ecad", ecad([{str(b): each for b, each in enumerate(step)} for step in steps]), TEXT_MODEL, 2)
    assert (work[0] == COMPUTE).all()
    assert (work[1, at(SHAPES, "attn")] == [COMPUTE] * 5 + [0]).all()
    assert (work[1, at(SHAPES, "cross_attn")] == [0] * 5 + [COMPUTE]).all()
    assert (work[1, at(SHAPES, "ff")] == [COMPUTE] * 5 + [0]).all()


def test_ecads_tensor_says_the_same_as_its_file() -> None:
    rows = [["111"] * 6, ["101"] * 5 + ["010"]]
    steps = [[block(*(one == "1" for one in row)) for row in step] for step in rows]
    named = ecad([{str(b): each for b, each in enumerate(step)} for step in steps])
    lists = json.dumps([[[int(one) for one in row] for row in step] for step in rows])
    for content in (json.dumps(rows), lists):
        assert (read("ecad", content, TEXT_MODEL, 2) == read("ecad", named, TEXT_MODEL, 2)).all()
    flipped = json.dumps(rows).translate(str.maketrans("01", "10"))
    assert (read("ecad", flipped, TEXT_MODEL, 2, "cached") == read("ecad", named, TEXT_MODEL, 2)).all()


def test_what_ecads_first_step_leaves_out_is_computed(caplog: Any) -> None:
    caplog.set_level("INFO", logger="soda_export")
    work = read("ecad", json.dumps([["110"] * 6, ["000"] * 6]), TEXT_MODEL, 2)
    assert (work[0] == COMPUTE).all()
    assert "as ECAD's own code does: 6" in caplog.text


@pytest.mark.parametrize(("output", "does"), [(True, COMPUTE), (False, 0)])
def test_ecads_single_blocks_compute_where_their_output_does(output: bool, does: int) -> None:
    double = {"full_attn": True, "full_ff": False, "full_ff_context": True}
    single = {"single_attn": True, "single_proj_mlp": False, "single_proj_out": output}
    full = {"0": dict.fromkeys(double, True), "single_0": dict.fromkeys(single, True)}
    work = read("ecad", ecad([full, {"0": double, "single_0": single}]), FLUX, 2)
    assert work[1].tolist() == [COMPUTE, 0, COMPUTE, does, COMPUTE]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 0]", "step 0: expected blocks"),
        ("{", "not valid JSON"),
        ("{}", "expected ECAD's file"),
        ('{"a": {}}', "its keys must be steps 000, 001 and so on"),
        ('{"001": {}}', "its keys must be steps 000"),
        (json.dumps([["111"] * 6] * 3), "has 3 steps, the sampler 2; pass --steps 3"),
        (json.dumps([["111"] * 5] * 2), "step 0: says nothing of transformer_blocks.5."),
        (json.dumps([["111"] * 7] * 2), "step 0, block '6': the model has attn 0 .. 5"),
        (json.dumps([["11"] * 6] * 2), "block '0': expected components"),
        (ecad([{"0": {"attn1": 2}}] * 2), "block '0', 'attn1': is 2; only true and false"),
        (ecad([{"0": {"conv": True}}] * 2), "block '0': 'conv' is none of attn1, attn2, ff"),
        (ecad([{"0": {"full_attn": True}}] * 2), "block '0': the model has no 'full_attn', but attn, cross_attn"),
        (ecad([{"first": block(True, True, True)}] * 2), "block 'first': expected a number"),
        (ecad([{"single_0": {"single_attn": True}}] * 2), "block 'single_0': has 'single_attn', not single_attn"),
        (ecad([{"0": {"custom_compute_attn": {"name": "compute_attn_tgate"}}}] * 2),
         "custom_compute_attn 'compute_attn_tgate' does more than compute or reuse"),
    ],
)  # fmt: skip
def test_an_ecad_file_that_says_something_else_is_refused(content: str, message: str) -> None:
    with pytest.raises(PlanError) as raised:
        read("ecad", content, TEXT_MODEL, 2)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


# the mask of docs/caching.md and the request of examples/server/api.md in leejet/stable-diffusion.cpp, 97d29908
SD_MASK = "1,1,1,1,0,0,1,0,0,0,1,0,0,0,1,0,0,0,1,1"


@pytest.mark.parametrize(
    "content",
    [
        SD_MASK, SD_MASK.replace(",", " ") + "\n", f"[{SD_MASK}]", json.dumps({"scm_mask": SD_MASK}),
        f'sd-cli -m flux.gguf --cache-mode cache-dit --scm-mask "{SD_MASK}" --scm-policy static -p "a cat"',
    ],
)  # fmt: skip
def test_steps_that_stable_diffusion_cpp_caches_do_not_call_the_model(content: str) -> None:
    work = read("stable-diffusion.cpp", content, MODEL, 20)
    computed = [one == "1" for one in SD_MASK.split(",")]
    assert (work[computed] == COMPUTE).all()
    assert (work[np.invert(computed)] == IDLE).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("--cache-mode easycache", "cache mode 'easycache' decides at run time"),
        ('{"cache_mode": "dbcache", "scm_mask": ""}', "cache mode 'dbcache' decides at run time"),
        ("a cat", "expected a list like 1,1,0,1"),
        ('--scm-mask "1,2"', "scm_mask: '1,2' is not a list like"),
        ("1,1,0", "has 3 steps, the sampler 4"),
        ("0,1,1,0", "if ones mark what is cached, pass --ones cached"),
    ],
)
def test_a_mask_of_stable_diffusion_cpp_that_says_something_else_is_refused(content: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read("stable-diffusion.cpp", content, MODEL, 4)


def test_ones_may_mark_what_is_cached() -> None:
    same = [("1101", "0010"), ("[1, 1, 0, 1]", "[0, 0, 1, 0]")]
    for computed, cached in same:
        for source in ("cache-dit", "stable-diffusion.cpp"):
            assert (read(source, computed, MODEL, 4) == read(source, cached, MODEL, 4, "cached")).all()
    assert (read("dpcache", "0 1 3", MODEL, 4) == read("dpcache", "2", MODEL, 4, "cached")).all()
    with pytest.raises(PlanError, match="if ones mark what is computed, pass --ones computed"):
        read("cache-dit", "1101", MODEL, 4, "cached")


@pytest.mark.parametrize("content", ["[0, 1, 2, 5]", "0, 1, 2, 5\n", "0 1 2 5"])
def test_dpcaches_steps_between_key_steps_forecast_the_stack(content: str) -> None:
    work = read("dpcache", content, MODEL, 7)
    assert (work[[0, 1, 2, 5]] == COMPUTE).all()
    assert (work[[3, 4, 6]][:, DIGITS.leaves] == IDLE).all()
    assert (work[[3, 4, 6], DIGITS.stack] == -2).all()
    assert read("dpcache", "[0, 4]", MODEL, 6)[[1, 5], DIGITS.stack].tolist() == [0, -1]  # as far as there is history


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[0, 9]", "9 is outside 0 .. 6; steps count from 0"),
        ("[0, 3, 2]", "2 comes after 3; they must rise"),
        ("[1, 2]", "step 0 must be computed"),
        ("[0, true]", "expected a list of steps"),
        ("[]", "expected a list of steps"),
        ("none", "expected a list of steps"),
    ],
)
def test_key_steps_that_cannot_be_played_are_refused(content: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read("dpcache", content, MODEL, 7)
