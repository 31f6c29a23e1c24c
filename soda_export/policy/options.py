"""What is asked of a policy."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .catalog import FIXED, PolicyName


@dataclass(frozen=True)
class PolicyOptions:
    """How a run decides, step by step, whether to call the model."""

    policy: PolicyName | None = None
    """Give the bundle a policy that decides per sample which steps call the model; requests follow it unless they ask
    for `frozen` or `full`. misfit and easycache take --calls; sada and sada-paper decide as published."""
    calls: float = 0.0
    """Mean model calls of a run, e.g. 24 of 50: the policy's threshold is set for it on --policy-samples."""
    threshold: float = 0.0
    """easycache's threshold itself, e.g. 0.025 as published for HunyuanVideo, in place of --calls."""
    policy_samples: int = 64
    """Generations that a policy is calibrated on, each with a prompt of its own as far as there are so many."""

    def check(self, steps: int) -> None:
        """Refuse what does not go together. Raises UsageError."""
        given = [name for name in ("calls", "threshold") if getattr(self, name)]
        if self.policy is None:
            if given or self.policy_samples != PolicyOptions.policy_samples:
                name = given[0] if given else "policy-samples"
                raise UsageError(f"--{name}: goes with --policy; add --policy misfit, or leave it out")
            return
        if self.policy_samples < 1:
            raise UsageError(f"--policy-samples {self.policy_samples}: at least 1 generation must be measured")
        if self.policy in FIXED and given:
            raise UsageError(f"--{given[0]}: --policy {self.policy} decides as published; leave it out")
        if self.threshold and self.policy != "easycache":
            raise UsageError(f"--threshold: is easycache's; give --policy {self.policy} a number of --calls")
        if self.policy not in FIXED and len(given) != 1:
            wanted = "one of --calls and --threshold" if self.policy == "easycache" else "--calls"
            example = f"--calls {round(0.48 * steps)} of {steps} steps"
            raise UsageError(f"--policy {self.policy}: give {wanted}, e.g. {example}")
        if self.calls and not 2 <= self.calls < steps:
            raise UsageError(f"--calls {self.calls:g}: must be a number from 2, below the {steps} steps")
        if self.threshold < 0:
            raise UsageError(f"--threshold {self.threshold:g}: must be above 0")
