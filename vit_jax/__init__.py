"""Vision Transformers from scratch on small images, in JAX and Flax."""

__version__ = "0.1.0"
