"""What we accelerate. `load_model` turns a name or a diffusers folder into a LoadedModel: sites, module, weights."""
