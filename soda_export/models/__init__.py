"""What we accelerate. `load_denoiser` turns a name or a diffusers folder into a Denoiser and its scheduler."""
