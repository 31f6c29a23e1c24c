"""Run Open-Sora 1.2's own STDiT3 and keep what it gives, for tests/models/test_stdit.py:

    PYTHONPATH=. python scripts/make_stdit_golden.py CHECKOUT tests/data/stdit

CHECKOUT: github.com/hpcaitech/Open-Sora at v1.2.0. einops and rotary-embedding-torch 0.5.3 must be installed. What else
the release imports is replaced here: its parallelism by nothing, timm's Mlp by two linear layers, and the attention of
xformers, of texts one behind the other, by one attention for each text.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tests.models.stdit_cases import CASES, fill, inputs


class _Mlp(nn.Module):
    def __init__(
        self, in_features: int, hidden_features: int, act_layer: Any, drop: float, out_features: int | None = None
    ) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2 = nn.Linear(hidden_features, out_features or in_features)

    def forward(self, x: Tensor) -> Any:
        return self.fc2(self.act(self.fc1(x)))


class _BlockDiagonalMask:
    @staticmethod
    def from_seqlens(queries: list[int], keys: list[int]) -> tuple[list[int], list[int]]:
        return queries, keys


def _attend(q: Tensor, k: Tensor, v: Tensor, p: float, attn_bias: tuple[list[int], list[int]]) -> Tensor:
    """[1, all tokens, h, d] each."""
    parts = zip(q.split(attn_bias[0], 1), k.split(attn_bias[1], 1), v.split(attn_bias[1], 1), strict=True)
    mixed = [scaled_dot_product_attention(*(part.transpose(1, 2) for part in three)) for three in parts]
    return torch.cat([part.transpose(1, 2) for part in mixed], 1)


def _stub(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    module.__path__ = content.get("path", [])  # type: ignore[attr-defined]
    sys.modules[name] = module


def _released(checkout: Path) -> Any:
    class Registry:
        def register_module(self, *_: Any) -> Any:
            return lambda made: made

    def same(x: Any, *_: Any, **__: Any) -> Any:
        return x

    _stub("timm")
    _stub("timm.models")
    _stub("timm.models.layers", DropPath=nn.Identity)
    _stub("timm.models.vision_transformer", Mlp=_Mlp)
    fmha = types.SimpleNamespace(BlockDiagonalMask=_BlockDiagonalMask)
    _stub("xformers")
    _stub("xformers.ops", fmha=fmha, memory_efficient_attention=_attend)
    sys.modules["xformers"].ops = sys.modules["xformers.ops"]  # type: ignore[attr-defined]
    for name in ("", ".models", ".models.stdit", ".models.layers"):
        _stub(f"opensora{name}", path=[str(checkout / f"opensora{name}".replace(".", "/"))])
    for name in ("acceleration", "utils"):
        _stub(f"opensora.{name}")
    _stub("opensora.acceleration.checkpoint", auto_grad_checkpoint=lambda module, *args: module(*args))
    _stub(
        "opensora.acceleration.communications", all_to_all=same, gather_forward_split_backward=same,
        split_forward_gather_backward=same,
    )  # fmt: skip
    _stub("opensora.acceleration.parallel_states", get_sequence_parallel_group=lambda: None)
    _stub("opensora.registry", MODELS=Registry())
    _stub("opensora.utils.ckpt_utils", load_checkpoint=None)
    from opensora.models.stdit import stdit3

    return stdit3


@torch.no_grad()
def main(checkout: Path, folder: Path) -> None:
    released = _released(checkout)
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        model = released.STDiT3(released.STDiT3Config(**case.config)).eval()
        fill(model)
        given = inputs(case)
        texts = given["encoder_hidden_states"].clone()
        texts[given["is_negative"] > 0] = model.y_embedder.y_embedding
        output = model(
            given["hidden_states"], given["timestep"], texts[:, None], given["encoder_attention_mask"],
            fps=given["fps"], height=given["height"], width=given["width"],
        )  # fmt: skip
        save_file({"output": output.contiguous()}, folder / f"{name}.safetensors", {"source": "Open-Sora v1.2.0"})
        print(name, tuple(output.shape), float(output.std()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
