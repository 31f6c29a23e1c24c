"""Turn a model's raw output into the next state: guidance, then the step's affine map, as traceable tensor functions.

Export traces what eager runs, so nothing here looks at the values of a tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InternalError


def guide(output: Tensor, rows: int, guidance: float | Tensor, guided_channels: int, latent_channels: int) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): [R, C or 2C, ...] -> [B, same], R = rows * B.

    Axis 1 is the latents' first, whatever it stands for: channels of [C, H, W], tokens of a packed latent. The
    conditional half comes first; guidance is a number or a tensor [1]. Channels below guided_channels are guided:
    u + guidance * (c - u). The others are the conditional half's own: latent channels that the model's authors leave
    unguided (DiT guides 3 of 4), and the variance channels, those from latent_channels on.
    """
    if rows == 1:
        return output
    if not 0 < guided_channels <= latent_channels <= output.shape[1]:
        raise InternalError(f"guide: {guided_channels} of {latent_channels} channels, output {tuple(output.shape)}")
    # not chunk, whose sizes torch.export cannot tell for a symbolic number of rows
    conditional, unconditional = output.reshape(2, -1, *output.shape[1:]).unbind(0)
    if guided_channels == output.shape[1]:
        return unconditional + guidance * (conditional - unconditional)
    c, u = conditional[:, :guided_channels], unconditional[:, :guided_channels]
    return torch.cat([u + guidance * (c - u), conditional[:, guided_channels:]], dim=1)


def advance_state(row: Tensor, state: Tensor, output: Tensor, noise: Tensor | None, learned_variance: bool) -> Tensor:
    """z' = A z + b e + c * std * noise, float32.

    row: one row of SamplerTable.coefficients. state: [n, B, C, ...]. output: [B, C or 2C, ...], whose first C
    channels are e. noise: [B, C, ...], None where the step adds none. std is 1, or with learned_variance
    exp(0.5 * (f * max_log + (1 - f) * min_log)), f = (v + 1) / 2, where v is the output's last C channels
    (Nichol and Dhariwal 2021, eq. 15, with v from -1 .. 1 as their code has it).
    """
    n, channels = state.shape[0], state.shape[2]
    column = (n, *[1] * (state.dim() - 1))
    a, b, c = row[1 : 1 + n * n], row[1 + n * n : 1 + n * n + n], row[1 + n * n + n : 1 + n * n + 2 * n]
    prediction = output[:, :channels] if output.shape[1] > channels else output
    # a lone scalar is a cheaper node than a 1 x 1 matrix
    mixed = a * state if n == 1 else (a.reshape(n, n) @ state.flatten(1)).reshape(state.shape)
    result = mixed + b.reshape(column) * prediction
    if noise is None:
        return result
    if learned_variance:
        min_log, max_log = row[-2], row[-1]
        fraction = (output[:, channels:] + 1) / 2
        noise = torch.exp(0.5 * (fraction * max_log + (1 - fraction) * min_log)) * noise
    return result + c.reshape(column) * noise
