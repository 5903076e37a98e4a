"""Carries a prepared data set to a machine without TensorFlow or a network, in pieces of limited size.

python scripts/carry_data.py cut  --name=cifar10 --pieces=DIR [--size=60]     here, after vit-jax prepare
python scripts/carry_data.py join --pieces=DIR                                there, once all pieces are in DIR

Each piece is a compressed .npz of at most --size MiB. `join` puts the arrays where a run of cifar10 or cifar100 looks
for them where it finds no other: in $VIT_JAX_CACHE, else ~/.cache/vit_jax.
"""

import argparse
import itertools
import shutil
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from vit_jax.data import cache
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root

_COMPRESSED = 1.02  # of the images' bytes: photographs hardly shrink, and noise doesn't


def cut(name: str, pieces: Path, size: float) -> list[Path]:
    """Writes the newest prepared data set of this name as pieces; raises UserError if there is none."""
    found = cache.newest(cache_root(None), name)
    dataset = cache.read(found) if found else None
    if dataset is None:
        raise UserError(f"{cache_root(None)} holds no {name}; run vit-jax prepare --name={name} first")
    pieces.mkdir(parents=True, exist_ok=True)
    for old in pieces.glob(f"{name}_*.npz"):
        old.unlink()
    written: list[Path] = []
    for split, examples in dataset.splits.items():
        per_piece = max(int(size * 2**20 / (_COMPRESSED * examples.images[0].nbytes)), 1)
        for start in range(0, len(examples.labels), per_piece):
            path = pieces / f"{dataset.name}_{len(written):06d}.npz"
            np.savez_compressed(
                path,
                split=split,
                images=examples.images[start : start + per_piece],
                labels=examples.labels[start : start + per_piece],
                classes=np.array(dataset.classes),
                total=sum(len(other.labels) for other in dataset.splits.values()),
            )
            written.append(path)
    return written


def join(pieces: Path) -> Path:
    """Puts a data set together again, in the cache; raises UserError for pieces that are not those of one whole."""
    files = sorted(pieces.glob("*_*.npz"))
    names = {file.name.rpartition("_")[0] for file in files}
    if len(names) != 1:
        raise UserError(f"{pieces} needs the pieces of one data set, NAME_000000.npz and so on; found {sorted(names)}")
    try:
        parts = [dict(np.load(file, allow_pickle=False)) for file in files]
        splits = {
            str(split): Examples(*(np.concatenate([part[key] for part in group]) for key in ("images", "labels")))
            for split, group in ((s, list(g)) for s, g in itertools.groupby(parts, lambda part: str(part["split"])))
        }
        classes, expected = tuple(map(str, parts[0]["classes"])), int(parts[0]["total"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"a piece in {pieces} is damaged ({error}); carry it again") from error
    count = sum(len(examples.labels) for examples in splits.values())
    if count != expected:
        raise UserError(f"the pieces in {pieces} hold {count:,} of {expected:,} images; carry the missing ones, too")
    name = names.pop()
    target = cache.folder(cache_root(None), name, {"carried": name})
    if target.exists():
        shutil.rmtree(target)
    cache.write(target, DataSet(name, classes, splits))
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cut", "join"])
    # Of these a run takes the newest arrays that it finds; those of others have their folder's name in theirs.
    parser.add_argument("--name", default="cifar10", choices=["cifar10", "cifar100"])
    parser.add_argument("--pieces", required=True, type=Path, help="the folder of the pieces")
    parser.add_argument("--size", type=float, default=60, help="MiB of a piece at most")
    args = parser.parse_args()
    try:
        if args.what == "cut":
            for path in cut(args.name, args.pieces, args.size):
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        else:
            print(f"in {join(args.pieces)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
