"""Turn a sampler's name and a model's scheduler config into the diffusers scheduler, or refuse what cannot be frozen.

Sources: DDIM (Song et al. 2020), DDPM (Ho et al. 2020), DPM-Solver++ multistep (Lu et al. 2022), Euler and the sigmas
of Karras et al. 2022 (algorithm 2 without churn; eq. 5), UniPC (Zhao et al. 2023), flow matching (Lipman et al. 2022),
PNDM without its Runge-Kutta steps (Liu et al. 2022), LCM (Luo et al. 2023), TCD (Zheng et al. 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError
from ..models.architecture import check_kinds

CONFIG = "scheduler/scheduler_config.json"
_DPM, _EULER, _UNIPC = "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"
_FLOW_EULER = "FlowMatchEulerDiscreteScheduler"
_RFLOW = "RFlowScheduler"
_CLASSES = {
    "ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "dpm-solver++": _DPM, "euler": _EULER,
    "euler-ancestral": "EulerAncestralDiscreteScheduler", "flow-euler": _FLOW_EULER, "flow-dpm-solver++": _DPM,
    "flow-unipc": _UNIPC, "lcm": "LCMScheduler", "pndm": "PNDMScheduler", "rflow": _RFLOW, "tcd": "TCDScheduler",
    "unipc": _UNIPC,
    "dpm-solver++-karras": _DPM, "euler-karras": _EULER, "unipc-karras": _UNIPC,
}  # fmt: skip
SAMPLERS = tuple(_CLASSES)
_BETA_SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler",
    "LMSDiscreteScheduler", "DEISMultistepScheduler", "LCMScheduler", "TCDScheduler",
)  # fmt: skip
_CLIPPING_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler")  # clip unless the config says otherwise
_WITH_FLOW_SIGMAS = ("dpm-solver++", "unipc")  # diffusers gives use_flow_sigmas to these two
_NOT_AFFINE = "makes the sampler non-affine, so it cannot be frozen into a table; set it to false if your model allows"
_SWITCHES = {"clip_sample": _NOT_AFFINE, "thresholding": _NOT_AFFINE}
MU, UNIFORM_SIGMAS = "mu", "uniform_sigmas"
"""What models/schedule.py adds to a scheduler's configuration: the shift that the image's size asks for, and that the
pipeline spreads the noise levels evenly itself."""
_OWN = {kind: name for name, kind in _CLASSES.items() if not name.startswith("flow-") and not name.endswith("-karras")}
_OWN[_FLOW_EULER] = "flow-euler"
WITH_ETA = ("ddim", "tcd")
_TWICE = "pndm"
"""Sampler that calls the model once more than its number of steps, with the second timestep."""


def make_scheduler(sampler: str, config: dict[str, Any], learned_variance: bool = False) -> Any:
    """The diffusers scheduler of that name with the model's own noise schedule. Raises ModelError.

    learned_variance: whether the model gives 2C channels, so that ddpm can use a variance_type of learned_range.
    The other samplers have no use for the variance channels and ignore that entry.
    """
    if sampler not in _CLASSES:
        raise ModelError(f"--sampler {sampler}: not supported; choose one of {', '.join(SAMPLERS)}")
    import diffusers  # slow to import

    from .rflow import RFlowScheduler

    mu, shift = config.get(MU), config.get("shift", config.get("flow_shift", 1.0))
    config = {key: value for key, value in config.items() if key not in (MU, UNIFORM_SIGMAS)}
    _check_family(sampler, config)
    config = _choose_variance(sampler, config, learned_variance)
    own_class = config.get("_class_name", "DDIMScheduler")
    if own_class not in _CLIPPING_SCHEDULERS and _CLASSES[sampler] in _CLIPPING_SCHEDULERS:
        config = {"clip_sample": False, **config}  # the model's own scheduler knows no clipping
    if _CLASSES[sampler] == _DPM and config.get("algorithm_type") != "sde-dpmsolver++":
        config = {**config, "algorithm_type": "dpmsolver++"}  # the name asks for it, whatever the model's own is
    if sampler.startswith("flow-") and _CLASSES[sampler] != _FLOW_EULER:  # as pipelines of flows take them
        config = {**config, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    if sampler == "flow-euler":
        config = {**config, "shift": shift}
    if sampler == _TWICE:
        config = {**config, "skip_prk_steps": True}
    if sampler.endswith("-karras"):  # the spacings exclude each other
        others = {"use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False}
        config = {**config, **{key: off for key, off in others.items() if key in config}, "use_karras_sigmas": True}
    maker = RFlowScheduler if sampler == "rflow" else getattr(diffusers, _CLASSES[sampler])
    check_kinds(CONFIG, config, maker)
    try:
        scheduler = maker.from_config(config)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(f"{CONFIG}: diffusers refuses it: {' '.join(str(error).split())}") from None
    for switch, reason in _SWITCHES.items():
        if scheduler.config.get(switch):
            raise ModelError(f"{CONFIG}: {switch}=true {reason}")
    if scheduler.config.get("use_dynamic_shifting") and mu is None:
        raise ModelError(
            f"{CONFIG}: use_dynamic_shifting=true needs a shift that depends on the image's size, which is unknown for "
            "this family; set it to false and give a fixed shift"
        )
    return scheduler


def timestep_options(sampler: str, config: dict[str, Any], steps: int) -> dict[str, Any]:
    """What set_timesteps is given for `steps` calls of the model, as FluxPipeline and others do."""
    options: dict[str, Any] = {"num_inference_steps": steps - (sampler == _TWICE)}
    if config.get(MU) is not None:
        options["mu"] = config[MU]
    if config.get(UNIFORM_SIGMAS) and sampler == "flow-euler":
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    return options


def step_options(sampler: str, eta: float) -> dict[str, float]:
    """What every step is given besides."""
    return {"eta": eta} if sampler in WITH_ETA else {}


def own_sampler(config: dict[str, Any]) -> str:
    """The sampler that a model's own scheduler is. Raises ModelError for one that has no counterpart here."""
    own_class = str(config.get("_class_name", "DDIMScheduler"))
    name = _OWN.get(own_class)
    algorithm = config.get("algorithm_type", "dpmsolver++")
    if own_class == _DPM and algorithm not in ("dpmsolver++", "sde-dpmsolver++"):
        name, own_class = None, f"{own_class} with algorithm_type={algorithm}"
    if name is None:
        raise ModelError(
            f"{CONFIG}: {own_class} has no counterpart here; choose another with --sampler, of {', '.join(SAMPLERS)}"
        )
    return f"{name}-karras" if config.get("use_karras_sigmas") and f"{name}-karras" in SAMPLERS else name


def _check_family(sampler: str, config: dict[str, Any]) -> None:
    """A model of velocities along straight paths and one of noise at a level cannot trade samplers."""
    own_class = config.get("_class_name", "DDIMScheduler")
    if _RFLOW in (own_class, _CLASSES[sampler]):
        if own_class != _CLASSES[sampler]:
            raise ModelError(f"{CONFIG}: {own_class!r} has no schedule that {sampler} could follow; give it its own")
        return
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if sampler.startswith("flow-"):
        if own_class != _FLOW_EULER and not flow:
            raise ModelError(
                f"{CONFIG}: {own_class!r} is no flow-matching schedule that {sampler} could follow; "
                f"choose another --sampler or a model with {_FLOW_EULER}"
            )
        return
    if own_class not in _BETA_SCHEDULERS:
        advice = "choose --sampler flow-euler" if own_class == _FLOW_EULER else ", ".join(_BETA_SCHEDULERS)
        raise ModelError(
            f"{CONFIG}: {own_class!r} has no noise schedule that {sampler} could follow; supported: {advice}"
        )
    if flow and sampler not in _WITH_FLOW_SIGMAS:
        raise ModelError(
            f"{CONFIG}: the model predicts a flow, which {sampler} cannot follow; "
            f"choose one of {', '.join(_WITH_FLOW_SIGMAS)}"
        )


def _choose_variance(sampler: str, config: dict[str, Any], learned_variance: bool) -> dict[str, Any]:
    """Drop variance_type where it has no meaning: a multistep solver would cut the output at 3 channels for it."""
    variance = str(config.get("variance_type") or "")
    if sampler == "ddpm" and variance.startswith("learned"):
        if variance != "learned_range":
            raise ModelError(
                f"{CONFIG}: variance_type={variance}: of the learned variances only learned_range is supported with "
                f"ddpm; use --sampler ddim"
            )
        if not learned_variance:
            raise ModelError(
                f"{CONFIG}: variance_type={variance}: a learned variance needs a model that predicts it, and this one "
                f"gives the latents' channels alone; use --sampler ddim"
            )
        return config
    if sampler == "ddpm" and variance:
        return config
    return {key: value for key, value in config.items() if key != "variance_type"}
