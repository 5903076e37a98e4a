"""Decodes a data set into the cache of arrays, ahead of training: for machines without TensorFlow or a network.

python scripts/prepare_data.py --name=cifar10 [--dir=DIR] [--cache_dir=CACHE] [--image_size=32]

Afterwards copy the folder that it prints into the same place on the other machine ($VIT_JAX_CACHE, by default
~/.cache/vit_jax), or name it there with --config.data.cache_dir.
"""

import argparse
import sys

from vit_jax.config import DataConfig
from vit_jax.data import cache, sources
from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="cifar10", choices=[name for name in sources.NAMES if name != "fake"])
    parser.add_argument("--dir", help="where the data set lies; by default the source's own places")
    parser.add_argument("--cache_dir", help="where to keep the arrays; by default $VIT_JAX_CACHE or ~/.cache/vit_jax")
    parser.add_argument("--image_size", type=int, default=32, help="pixels a side; of image_folder only")
    args = parser.parse_args()
    try:
        dataset = sources.load(DataConfig(name=args.name, dir=args.dir, cache_dir=args.cache_dir), args.image_size)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, examples in dataset.splits.items():
        print(f"{split}: {len(examples.labels):,} images, {examples.images.nbytes / 2**20:,.1f} MiB")
    print(f"in {cache.newest(cache_root(args.cache_dir), args.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
