"""soda-export: freeze the decisions of training-free diffusion-transformer accelerators and compile what is left."""

__version__ = "0.1.0"
