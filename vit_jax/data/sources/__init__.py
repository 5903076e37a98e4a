"""Where data sets come from, by their names."""

from vit_jax.data.sources.named import NAMES, SIZES, check_name, load

__all__ = ["NAMES", "SIZES", "check_name", "load"]
