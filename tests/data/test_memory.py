"""A set ten times as large as the memory that reading it may take."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

_LIMIT = 128  # MiB above what the program takes with its libraries loaded and the first batches read
_SIDE = 512

# Threads and libraries are there after the first batches; from then on only batches may come and go.
_CHILD = f"""
import resource, sys
import numpy as np
from vit_jax.config import Config, DataConfig, ModelConfig
from vit_jax.data import sources
from vit_jax.data.pipeline import TfDataPipeline

data = DataConfig(name="image_folder", dir=sys.argv[1], pipeline="decoded")
examples = sources.load(Config(data=data, model=ModelConfig(image_size=64))).splits["train"]
batches, steps = TfDataPipeline(examples, 32).stream(0, 0), len(examples.labels) // 32
for _ in range(8):
    next(batches)
status = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(status["VmData"].split()[0]) * 1024 + {_LIMIT} * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
seen = np.concatenate([next(batches)["label"] for _ in range(steps)])
try:
    np.ones(limit, np.uint8)
    print("no limit")
except MemoryError:
    print(len(seen), round(seen.mean(), 1))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells what a process takes")
def test_memory_stays_flat_on_a_set_ten_times_as_large_as_its_limit(tmp_path):
    pytest.importorskip("tensorflow")
    rng, total = np.random.RandomState(0), 0
    files = []
    for label in ("a", "b"):
        (tmp_path / "large" / label).mkdir(parents=True)
        file = tmp_path / "large" / label / "0.png"
        Image.fromarray(rng.randint(256, size=(_SIDE, _SIDE, 3)).astype(np.uint8)).save(file, compress_level=0)
        files.append(file)
    size = files[0].stat().st_size
    count = 10 * _LIMIT * 2**20 // size // 2 + 1
    for file in files:
        for i in range(1, count):  # the same pixels take no more disk, and as much memory
            os.link(file, file.with_name(f"{i}.png"))
            total += size
    assert total > 10 * (_LIMIT - 1) * 2**20
    done = subprocess.run([sys.executable, "-c", _CHILD, str(tmp_path / "large")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == [str(2 * count // 32 * 32), "0.5"]
