"""A trained model as files that other programs load."""

from vit_jax.export.folder import export as export
