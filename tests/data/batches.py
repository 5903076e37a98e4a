"""Small CIFAR-10 batches, and what else several tests of the data use."""

import hashlib
import pickle
from pathlib import Path

import numpy as np

from vit_jax.config import Config, DataConfig, ModelConfig
from vit_jax.data import sources
from vit_jax.data.dataset import DataSet, Examples
from vit_jax.data.sources import cifar_files

NAMES = [name for names in cifar_files.BATCHES.values() for name in names]


def batch(i, n=7):
    rng = np.random.RandomState(i)
    return rng.randint(256, size=(n, 3072)).astype(np.uint8), rng.randint(10, size=n).tolist()


def write_pickles(folder, protocol=2):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(NAMES):
        data, labels = batch(i)
        content = {b"data": data, b"labels": labels, b"batch_label": b"x", b"filenames": [b"a.png"] * len(labels)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def pin(monkeypatch, archive):
    """From here on an archive passes for one of CIFAR-10's own."""
    content = archive.read_bytes()
    known = {"cifar-10-python.tar.gz": (len(content), hashlib.sha256(content).hexdigest())}
    monkeypatch.setattr(cifar_files, "ARCHIVES", known)


def expected():
    planes = np.concatenate([batch(i)[0] for i in range(5)])
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.concatenate([batch(i)[1] for i in range(5)])


def load(name, **kwargs):
    return load_at(32, name, **kwargs)


def load_at(size, name, **kwargs):
    return sources.load(Config(data=DataConfig(name=name, **kwargs), model=ModelConfig(image_size=size)))


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def small(seed=0):
    rng = np.random.RandomState(seed)
    examples = Examples(rng.randint(256, size=(9, 4, 4, 3)).astype(np.uint8), np.arange(9, dtype=np.int32) % 2)
    return DataSet("small", ("a", "b"), {"train": examples, "test": examples})
