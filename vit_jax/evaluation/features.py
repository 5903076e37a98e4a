"""Features of one's own pictures, into one .npz file. N pictures, B of them at a time, D width, T tokens.

Each batch is kept beside the file until all are there: what was stopped goes on where it was.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.config import Config
from vit_jax.data.augment import preprocess
from vit_jax.data.encoded import seen
from vit_jax.data.images import upright
from vit_jax.data.sources.names import shown
from vit_jax.data.view import View
from vit_jax.errors import UserError
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.models import VisionTransformer
from vit_jax.models.stems import grid_shape, image_shape, prefix_tokens
from vit_jax.system.disk import write_whole
from vit_jax.system.progress import doing, say
from vit_jax.system.sharding import make_mesh

_BATCH = 64
_CALLS = 8  # batches in a file of their own


@dataclass(frozen=True)
class Extractor:
    """A model and how pictures come to it."""

    name: str  # what its weights are called
    module: VisionTransformer
    params: Any
    config: Config  # its augment has mean and std
    view: View


def rows_of(params: Any, images: jax.Array, *, module: VisionTransformer, config: Config, tokens: bool) -> jax.Array:
    """uint8 (B, H, W, channels) -> all features of each, side by side (B, F) float32, as `parts_of` names them."""
    x = preprocess(images, config.augment, image_shape(module.cfg)[:2])  # (B, H, W, C) of the model
    aux = module.apply({"params": params}, x, train=False)[1]
    encoded, prefix = aux["encoded"].astype(jnp.float32), prefix_tokens(module.cfg)  # (B, T, D)
    found = [aux["pre_logits"].astype(jnp.float32)]
    if module.cfg.pool.startswith("token"):
        found.append(encoded[:, 0])
    found.append(encoded[:, prefix:].mean(axis=1))
    if tokens:
        found.append(encoded.reshape(len(encoded), -1))
    return jnp.concatenate(found, axis=1)


def parts_of(module: VisionTransformer, features: int, tokens: bool) -> dict[str, tuple[int, ...]]:
    """What `rows_of` gives of `features` numbers, in its order, and of which shape each is."""
    cfg, parts = module.cfg, dict[str, tuple[int, ...]]()
    width, count = int(cfg.width or 0), prefix_tokens(cfg) + math.prod(grid_shape(cfg))
    if cfg.pool.startswith("token"):
        parts["class_token"] = (width,)
    parts["mean"] = (width,)
    if tokens:
        parts["tokens"] = (count, width)
    rest = sum(math.prod(shape) for shape in parts.values())
    return {"features": (features - rest,), **parts}


def extract(
    extractor: Extractor, files: Sequence[Path], output: Path, tokens: bool, check: Callable[[], None] = lambda: None
) -> None:
    """Writes `output`, an .npz with `paths` (N,) and float32 features of each picture that can be read:

        features     (N, F)  what the model classifies, or would
        class_token  (N, D)  where there is one, after the last norm
        mean         (N, D)  of the patches' tokens, likewise
        tokens       (N, T, D)  all tokens, if asked for

    `check` is called before each batch and may raise. Raises UserError, once all others are there, for pictures that
    can't be read.
    """
    cfg, view = extractor.config, extractor.view
    shape = (*view.size, view.channels)
    step = _Step(tokens)
    evaluator = Evaluator(extractor.module, cfg, make_mesh(), extractor.params, shape, step)
    kept = _kept_for(extractor, files, output, tokens)
    broken: list[tuple[Path, str]] = []
    started, done = time.monotonic(), 0
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        for first in range(0, len(files), _BATCH * _CALLS):
            check()
            some, part = files[first : first + _BATCH * _CALLS], kept / f"{first:09d}.npz"
            if not part.exists():
                read = list(executor.map(lambda file: _read(file, view), some))
                pixels = [x for x in read if not isinstance(x, str)]
                with doing(f"Features, {first:,} of {len(files):,} pictures done"):
                    rows = evaluator.logits(extractor.params, np.stack(pixels), check) if pixels else np.zeros((0, 0))
                reasons = [x if isinstance(x, str) else "" for x in read]
                _save(part, rows=rows, reasons=np.array(reasons))
                done += len(some)
            with np.load(part, allow_pickle=False) as content:
                pairs = zip(some, content["reasons"].tolist(), strict=True)
                broken += [(file, reason) for file, reason in pairs if reason]
    seconds = time.monotonic() - started
    unread = {file for file, _ in broken}
    _join(kept, output, [str(file) for file in files if file not in unread], extractor, tokens)
    speed = f", {done / seconds:,.1f} images/s" if done else ""
    count = len(files) - len(broken)
    say(f"{output}: features of {count:,} picture{'s' if count != 1 else ''} by {extractor.name}{speed}")
    if broken:
        lines = [f"  {shown(file)}: {reason}" for file, reason in broken]
        title = f"{len(broken):,} of {len(files):,} pictures can't be read and aren't in {output}; mend them:"
        raise UserError("\n".join([title, *lines]))


@dataclass(frozen=True)
class _Step:
    """`rows_of` for an Evaluator."""

    tokens: bool

    def __call__(self, params: Any, images: jax.Array, *, module: VisionTransformer, config: Config) -> jax.Array:
        return rows_of(params, images, module=module, config=config, tokens=self.tokens)


def _read(file: Path, view: View) -> np.ndarray | str:
    """The picture as an evaluation sees it, or why it can't be read."""
    try:
        return seen(upright(file.read_bytes(), view.channels), view)
    except Exception as error:  # Pillow raises many types for broken files
        return " ".join(str(error).split()) or type(error).__name__


def _kept_for(extractor: Extractor, files: Sequence[Path], output: Path, tokens: bool) -> Path:
    """The folder of what is there already of the same features of the same pictures; a new one otherwise."""
    stats = [(str(file), *((s := file.stat()).st_size, s.st_mtime_ns)) for file in files]
    said = json.dumps([extractor.name, repr(extractor.module.cfg), repr(extractor.config.augment), stats])
    hashed = hashlib.sha256(f"{said} {extractor.view} {tokens}".encode())
    for x in jax.tree.leaves(extractor.params):
        hashed.update(np.ascontiguousarray(x))
    digest = hashed.hexdigest()
    folder, mark = output.with_name(f".{output.name}.parts"), "of"
    if folder.is_dir() and (folder / mark).is_file() and (folder / mark).read_text() == digest:
        there = len(list(folder.glob("*.npz")))
        say(f"{there * _BATCH * _CALLS:,} of {len(files):,} pictures, at most, are there from before; going on.")
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(folder / mark, digest)
    return folder


def _save(path: Path, **arrays: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _join(kept: Path, output: Path, paths: list[str], extractor: Extractor, tokens: bool) -> None:
    """Writes the file of all parts, and removes these."""
    found = [np.load(part, allow_pickle=False)["rows"] for part in sorted(kept.glob("*.npz"))]
    rows = np.concatenate([x for x in found if len(x)] or [np.zeros((0, 0), np.float32)])
    arrays, at = {}, 0
    if len(rows):
        for name, shape in parts_of(extractor.module, rows.shape[1], tokens).items():
            size = math.prod(shape)
            arrays[name] = rows[:, at : at + size].reshape(len(rows), *shape)
            at += size
    _save(output, paths=np.array(paths), **arrays)
    shutil.rmtree(kept, ignore_errors=True)
