"""A small autoencoder of Open-Sora's kind, whose weights follow from their names (tests/models/stdit_cases.py)."""

from __future__ import annotations

from typing import Any

LATENTS, FRAMES = (1, 4, 10, 3, 4), 34
CONFIG: dict[str, Any] = {
    "model_type": "VideoAutoencoderPipeline", "micro_frame_size": 17, "scale": (3.85, 2.32, 2.33, 3.06),
    "shift": (-0.10, 0.34, 0.27, 0.98), "scale_factor_spatial": 2,
    "spatial": {
        "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "temporal": {"filters": 8, "num_res_blocks": 1, "num_groups": 4},
}  # fmt: skip
"""Two chunks of 5 latents."""
