"""Random small denoisers: modules of a few kinds in any order, modulated by the time, the request or both."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from soda_export.eager.model import EagerModel
from soda_export.models.fake import FakeModel, make_fake, with_buffers
from soda_export.models.family import Family, Latents, Request, SiteRule, Timestep
from soda_export.models.paths import site_modules
from soda_export.models.spec import STACK, ModelSpec, Port, Site

TOKENS, WIDTH, WORDS = 16, 8, 5
SCHEDULER = {"_class_name": "DDIMScheduler", "clip_sample": False}


class Mlp(nn.Module):
    """Token by token; its code asks how many rows and tokens it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH + 1, WIDTH)

    def forward(self, hidden_states: Tensor) -> Tensor:
        rows, tokens, _ = hidden_states.shape
        hidden = F.gelu(self.up(hidden_states))
        return self.down(torch.cat([hidden, hidden.new_ones(rows, tokens, 1)], 2))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """To all tokens, or to what is given."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        other = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (t.unsqueeze(1) for t in (self.q(hidden_states), self.k(other), self.v(other)))
        return F.scaled_dot_product_attention(q, k, v).squeeze(1)


class Pair(nn.Module):
    """Two values of one call."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(hidden_states), self.two(hidden_states).tanh()


class Block(nn.Module):
    """Modules in a random order, each behind a random modulation."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.parts = draw.sample(["mlp", "attn", "cross", "pair"], 4)
        self.ways = [draw.randrange(4) for _ in range(4)]
        self.mlp, self.attn, self.cross, self.pair = Mlp(), Attention(), Attention(), Pair()
        self.scales = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, hidden_states: Tensor, time: Tensor, pooled: Tensor, words: Tensor) -> Tensor:
        x = hidden_states
        for part, way, scale in zip(self.parts, self.ways, self.scales, strict=True):
            embedding = (time, pooled, time + pooled, time * pooled)[way]
            gate, shift = scale(F.silu(embedding))[:, None].chunk(2, dim=2)
            inputs = self.norm(x) * (1 + gate) + shift
            if part == "pair":
                one, two = self.pair(inputs)
                x = x + one * two
            elif part == "cross":
                x = x + self.cross(inputs, words)
            else:
                x = x + gate * getattr(self, part)(inputs)
        return x


class Net(nn.Module):
    """A denoiser of tokens."""

    def __init__(self, seed: int, blocks: int = 2) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.time, self.pool, self.word = nn.Linear(4, WIDTH), nn.Linear(6, WIDTH), nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleList(Block(draw) for _ in range(blocks))
        self.head = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("places", torch.linspace(-1, 1, TOKENS)[None, :, None].repeat(1, 1, WIDTH))

    def forward(
        self, sample: Tensor, timestep: Tensor, pooled: Tensor, words: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        angles = timestep[:, None] / 1000 * torch.arange(1, 5)
        time, pooled, words = self.time(angles.sin()), self.pool(pooled), self.word(words)
        x = sample + self.places
        for block in self.blocks:
            x = block(x, time, pooled, words)
        return (self.head(x) * (1 + time[:, None]),)


NET = Family(
    name="net", classes=("Net",),
    arguments={
        "sample": Latents(), "timestep": Timestep(), "pooled": Request("pooled"), "words": Request("words"),
    },
    sites=(
        SiteRule("blocks.*.mlp", "mlp", renew="tokens"), SiteRule("blocks.*.attn", "attn", renew="queries"),
        SiteRule("blocks.*.cross", "cross", renew="tokens"), SiteRule("blocks.*.pair", "pair", outputs=(0, 1)),
        SiteRule("blocks.0", "block"), SiteRule("blocks.-1", STACK),
    ),
    latent_shape=lambda sizes: (TOKENS, WIDTH), prediction_shape=lambda sizes: (TOKENS, WIDTH),
    ports=lambda sizes: (Port("pooled", "embedding", (6,)), Port("words", "embedding", (WORDS, 3))),
    steps=4, default_guidance=2.0, blocks=("blocks.*",),
)  # fmt: skip


@dataclass(frozen=True)
class LoadedNet:
    """What export_programs needs of a model."""

    net: Net
    spec: ModelSpec
    family: Family = NET
    constants: Any = None
    scheduler_config: dict[str, Any] = field(default_factory=lambda: SCHEDULER)

    def fake(self, dtype: torch.dtype) -> FakeModel:
        """The net without its weights."""
        seed = int(self.spec.name.removeprefix("net-"))

        def build(parameter: Any) -> nn.Module:
            net = Net(seed)
            for module in net.modules():
                for name, own in module._parameters.items():
                    if own is not None:
                        module._parameters[name] = nn.Parameter(parameter(own), requires_grad=False)
            return net.eval()

        return with_buffers(make_fake(build, dtype), build, lambda name: None)

    @property
    def weights(self) -> LoadedNet:
        """Itself."""
        return self

    def read(self, name: str) -> Tensor:
        """A weight."""
        return self.net.state_dict()[name]

    @property
    def eager(self) -> EagerModel:
        """The net under hooks."""
        return EagerModel(self.net, self.family, self.spec, {})


def random_net(seed: int) -> LoadedNet:
    """A net of that seed with random weights."""
    torch.manual_seed(seed)
    net = Net(seed).eval().requires_grad_(False)
    sites = []
    for site in site_modules(net, NET):
        outputs = ((TOKENS, WIDTH),) * (2 if site.rule.outputs else 1)
        inside = "" if site.rule.kind == STACK else "blocks.1"
        if site.path.startswith("blocks.0."):
            inside = "blocks.0"
        sites.append(
            Site(site.path, site.rule.kind, 0.0, outputs, 100, tokens=TOKENS if site.rule.renew else 0,
                 kept_flops=(1, 6), inside=inside)
        )  # fmt: skip
    order = [site for site in sites if site.kind not in ("block", STACK)]
    at = next(i for i, site in enumerate(order) if site.name.startswith("blocks.1."))
    block, stack = (next(site for site in sites if site.kind == kind) for kind in ("block", STACK))
    spec = ModelSpec(
        f"net-{seed}", "net", f"{seed:064d}", (*order[:at], block, *order[at:], stack), NET.ports(None),  # type: ignore[arg-type]
        (TOKENS, WIDTH), (TOKENS, WIDTH), "latents",
    )  # fmt: skip
    return LoadedNet(net, spec, constants={})
