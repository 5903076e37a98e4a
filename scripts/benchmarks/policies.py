"""RandAugment and TrivialAugment alone, on one device, beside a large matmul in the same process."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each policy on --batch (256) images of 32 x 32: its medians, and how many matmuls that is.

    Every policy and the float32 matmul of (4096, 1024) and (1024, 4096) run in turn, --rounds times --steps times.
    `compile_seconds` is of tracing and compiling, without a cache.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vit_jax.config import AugmentConfig
    from vit_jax.data.policies import apply_policy

    jax.config.update("jax_enable_compilation_cache", False)
    images = jnp.asarray(np.random.RandomState(0).randint(256, size=(args.batch or 256, 32, 32, 3)), jnp.uint8)
    a, b = jnp.ones((4096, 1024)), jnp.ones((1024, 4096))
    runs: dict[str, Callable[[], Any]] = {"matmul": jax.jit(jnp.matmul).lower(a, b).compile()}
    operands, compiling = {"matmul": (a, b)}, {}
    for name in ("randaugment", "trivialaugment"):
        cfg = AugmentConfig(policy=name, mean=(0.5,) * 3, std=(0.5,) * 3)
        operands[name] = (jax.random.key(0), images)
        before = time.perf_counter()
        apply = jax.jit(lambda key, images, cfg=cfg: apply_policy(key, images, cfg))
        runs[name] = apply.lower(*operands[name]).compile()
        compiling[name] = time.perf_counter() - before
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.warmup + args.rounds * args.steps):
        for name, run in runs.items():
            before = time.perf_counter()
            jax.block_until_ready(run(*operands[name]))
            if turn >= args.warmup:
                seconds[name].append(time.perf_counter() - before)
    matmul = statistics.median(seconds["matmul"])
    return [
        {
            "policy": name,
            "seconds": statistics.median(seconds[name]),
            "lowest": min(seconds[name]),
            "highest": max(seconds[name]),
            "matmul_seconds": matmul,
            "matmuls": statistics.median(seconds[name]) / matmul,
            "compile_seconds": compiling[name],
            "batch_size": len(images),
        }
        for name in compiling
    ]
