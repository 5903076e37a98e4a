"""The configs that come with the package, for `from vit_jax.configs import laptop` in one of one's own."""
