"""Eight virtual CPU devices, a compilation cache, no network, and data only from where a test puts them."""

import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

_cache = Path(tempfile.gettempdir()) / f"vit_jax_tests_{os.getuid()}"
_cache.mkdir(mode=0o700, exist_ok=True)
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_NUM_CPU_DEVICES="8",
    JAX_COMPILATION_CACHE_DIR=str(_cache),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)
os.environ.pop("TFDS_DATA_DIR", None)
