"""How XLA compiles: kept from start to start, and the same bits each time where that is asked for."""

import os

import jax

from vit_jax.errors import UserError
from vit_jax.system.disk import cache_root

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def use_deterministic_ops() -> None:
    """Has XLA choose only operations that give the same bits each time. To be called before anything else uses JAX.

    On GPUs some are slower; on a CPU all are so anyway. Raises UserError where JAX uses a GPU already.
    """
    from jax._src.xla_bridge import backends_are_initialized  # JAX has no public way to ask without starting one

    flags = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC in flags.split():
        return
    if backends_are_initialized() and jax.default_backend() == "gpu":
        raise UserError(
            "config.train.deterministic=True has to be known before JAX is used in a process; start another one "
            f"(restart the kernel), or set XLA_FLAGS={_DETERMINISTIC}"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()


def use_cache() -> None:
    """Turns JAX's compilation cache on, in a folder that only its user can read and write.

    $JAX_COMPILATION_CACHE_DIR, if set, stays. Without a folder that can be written, there is no cache.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_root(None) / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # what is loaded from it runs
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
