"""The ready-made configs, one experiment a file; as part of the package, vit_jax.configs."""
