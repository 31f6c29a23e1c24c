"""soda-export: freeze the decisions of training-free diffusion-transformer accelerators and compile what is left."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import build

__all__ = ["__version__", "build"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`build`, once it is asked for: the version alone costs no imports."""
    if name != "build":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .api import build

    return build


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
