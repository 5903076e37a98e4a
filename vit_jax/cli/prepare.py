"""Decodes a data set into the cache of arrays, ahead of training: for machines without TensorFlow or a network."""

from vit_jax.config import Config, DataConfig, ModelConfig
from vit_jax.data import cache, sources
from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root
from vit_jax.system.progress import say


def prepare(name: str, dir: str | None, cache_dir: str | None, image_size: int) -> None:
    """Decodes `name` from `dir`, by default the source's own places, and says where the arrays are.

    `image_size` in pixels is of encoded images of different sizes. Raises UserError for a data set that there isn't or
    can't be had.
    """
    names = [known for known in sources.NAMES if known != "fake"]  # which is made in memory
    if name.startswith("tfds:"):
        sources.check_name(name)
    elif name not in names:
        raise UserError(f"--name={name} is not one of {', '.join(names)}, tfds:NAME")
    data = DataConfig(name=name, dir=dir, cache_dir=cache_dir, pipeline="mapped")  # arrays, however large
    dataset = sources.load(Config(data=data, model=ModelConfig(image_size=image_size)))
    for split, examples in dataset.splits.items():
        say(f"{split}: {len(examples.labels):,} images, {examples.images.nbytes / 2**20:,.1f} MiB")
    say(f"in {cache.newest(cache_root(cache_dir), name)}")
    say("Copy that folder to the same place on another machine ($VIT_JAX_CACHE, by default ~/.cache/vit_jax), or name")
    say("the one it lies in with --config.data.cache_dir.")
