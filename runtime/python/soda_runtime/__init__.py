"""soda_runtime: play bundles made by soda-export. Needs numpy and one engine library, nothing else."""

from .backends import DeviceOptions
from .bundle import Bundle
from .errors import BundleError, Cancelled, EngineError, RequestError, SodaError
from .progress import StepDone
from .prompts import Truncation
from .request import Embeds, Noise, Request
from .session import Session

__version__ = "0.1.0"
__all__ = [
    "Bundle", "BundleError", "Cancelled", "DeviceOptions", "Embeds", "EngineError", "Noise", "Request", "RequestError",
    "Session", "SodaError", "StepDone", "Truncation",
]  # fmt: skip
