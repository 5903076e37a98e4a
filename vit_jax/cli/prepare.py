"""Decodes a data set into the cache of arrays, ahead of training: for machines without TensorFlow or a network."""

from vit_jax.config import Config, DataConfig, ModelConfig
from vit_jax.data import cache, sources
from vit_jax.data.encoded import EncodedImages
from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root
from vit_jax.system.progress import say


def prepare(name: str, dir: str | None, cache_dir: str | None, image_size: int) -> None:
    """Decodes `name` from `dir`, by default the source's own places, and says where the arrays are.

    `image_size` in pixels is of sets whose images have many sizes. Raises UserError for a data set that there isn't,
    that can't be had, or that training wouldn't take as arrays.
    """
    names = [known for known in sources.NAMES if known != "fake"]  # which is made in memory
    if name.startswith("tfds:"):
        sources.check_name(name)
    elif name not in names:
        raise UserError(f"--name={name} is not one of {', '.join(names)}, tfds:NAME")
    data = DataConfig(name=name, dir=dir, cache_dir=cache_dir)
    dataset = sources.load(Config(data=data, model=ModelConfig(image_size=image_size)))
    if any(isinstance(examples.images, EncodedImages) for examples in dataset.splits.values()):
        size = sum(examples.images.nbytes for examples in dataset.splits.values()) / 2**30
        raise UserError(
            f"as arrays, {name} at {image_size} pixels a side would take {size:,.1f} GiB: training decodes its images "
            "as needed, so there is nothing to prepare; a smaller --image_size makes arrays"
        )
    for split, examples in dataset.splits.items():
        say(f"{split}: {len(examples.labels):,} images, {examples.images.nbytes / 2**20:,.1f} MiB")
    say(f"in {cache.newest(cache_root(cache_dir), name, dataset.sha256)}")
    say("Copy that folder to the same place on another machine ($VIT_JAX_CACHE, by default ~/.cache/vit_jax), or name")
    say("the one it lies in with --config.data.cache_dir.")
