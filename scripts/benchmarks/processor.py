"""What a user of this CPU gets: matmuls by shape and number format, our step, its share of them, the best peer.

python -m benchmarks.processor '{"library": "torch", "shapes": [[1, 4096, 1024, 4096]], "seconds": 0.5}' measures one
library's.
"""

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import training
from benchmarks.child import result_of

DTYPES = ("float32", "bfloat16")
# B, M, K, N of (B, M, K) @ (B, K, N). One that no cache holds; a ViT's of width 192, 32 images of 64 tokens: queries,
# keys and values, both layers of the MLP, the gradient of a kernel, and the scores of 96 heads.
SHAPES = (
    (1, 4096, 1024, 4096),
    (1, 2048, 192, 576),
    (1, 2048, 192, 384),
    (1, 2048, 384, 192),
    (1, 192, 2048, 576),
    (96, 64, 64, 64),
)
_PEERS = ("torch_eager", "torch_eager_bf16")  # the fastest on a CPU (RECORDS.md)
# A product that would take longer is left out, and a step in its number format: PyTorch's bfloat16 without AVX-512
# does 2 GFLOP/s, so that the largest product takes 17 s, and a step minutes.
_LONGEST_SECONDS = 3.0


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each matmul, its GFLOP/s in XLA and in PyTorch, then one for each contestant's step of --model."""
    from benchmarks.shapes import config_of
    from vit_jax.models import flops

    names = ("vit_jax", "vit_jax_bf16", *_PEERS)
    contestants = [c for c in training.chosen("training", args.contestants, args.dtype) if c.name in names]
    libraries = sorted({c.needs for c in contestants if importlib.util.find_spec(c.needs)})
    found: dict[str, list[list[float | None]]] = {library: [] for library in libraries}
    for _ in range(args.rounds):
        for library in libraries:
            found[library].append(_rates(library, 0.04 * args.steps))
    cases = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    rates = {library: [_median(case) for case in zip(*runs, strict=True)] for library, runs in found.items()}
    rows: list[dict[str, Any]] = [
        {"what": f"matmul {' x '.join(map(str, shape[shape[0] == 1 :]))}", "dtype": dtype}
        | {f"{library}_gflops": rates[library][i] for library in libraries}
        for i, (shape, dtype) in enumerate(cases)
    ]
    config = config_of(args.model, args.batch, "float32")
    work = flops.training(config.model) * config.train.batch_size / 1e9
    task = {"task": "training", "model": args.model, "batch_size": args.batch}
    task |= {"steps": args.steps, "warmup": args.warmup}
    slow = {(lib, d) for lib, own in rates.items() for (_, d), rate in zip(cases, own, strict=True) if rate is None}
    awaited = [c for c in contestants if (c.needs, c.dtype) not in slow]
    results = training.rounds(awaited, task, args.rounds)
    for row in training.summary(awaited, results, training.reference_of(awaited)):
        step = {"what": f"step of {args.model}, {row['contestant']}", "dtype": row["dtype"]}
        if "absent" in row:
            rows.append({**step, "absent": row["absent"]})
            continue
        rate = work / row["seconds_per_step"]
        best = max(r for own in rates.values() for (_, d), r in zip(cases, own, strict=True) if d == row["dtype"] and r)
        step |= {"seconds": row["seconds_per_step"], "lowest": row["lowest"], "highest": row["highest"]}
        rows.append({**step, "gflops": rate, "share_of_the_best_matmul": rate / best})
    rows += [
        {"what": f"step of {args.model}, {c.name}", "dtype": c.dtype, "absent": "too slow: see its matmuls"}
        for c in contestants
        if c not in awaited
    ]
    return rows


def _median(rates: Sequence[float | None]) -> float | None:
    measured = [rate for rate in rates if rate is not None]
    return statistics.median(measured) if len(measured) == len(rates) else None


def _rates(library: str, seconds: float) -> list[float | None]:
    result = result_of("benchmarks.processor", {"library": library, "shapes": SHAPES, "seconds": seconds})
    if "failed" in result:
        raise SystemExit(f"error: {library}: {result['failed']}")
    return result["gflops"]


def _jax() -> Callable[[tuple[int, ...], str], Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    def prepared(shape: tuple[int, ...], dtype: str) -> Callable[[], Any]:
        b, m, k, n = shape
        x, y = jnp.ones((b, m, k)[b == 1 :], dtype), jnp.ones((b, k, n)[b == 1 :], dtype)
        product = jax.jit(jnp.matmul).lower(x, y).compile()
        return lambda: product(x, y).block_until_ready()

    return prepared


def _torch() -> Callable[[tuple[int, ...], str], Callable[[], Any]]:
    import torch

    def prepared(shape: tuple[int, ...], dtype: str) -> Callable[[], Any]:
        b, m, k, n = shape
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        x, y = torch.ones((b, m, k)[b == 1 :], dtype=kind), torch.ones((b, k, n)[b == 1 :], dtype=kind)
        return lambda: torch.matmul(x, y)

    return prepared


def main(spec: dict[str, Any]) -> dict[str, list[float | None]]:
    """GFLOP/s of each shape and dtype, the median over its share of the time; None where one product takes too long."""
    prepared = {"jax": _jax, "torch": _torch}[spec["library"]]()
    rates: dict[tuple[int, str], float | None] = {}
    order = sorted(range(len(spec["shapes"])), key=lambda i: math.prod(spec["shapes"][i]))
    for dtype in DTYPES:
        best = math.inf  # of the smaller shapes; the first is measured whatever it takes
        for i in order:
            operations = 2 * math.prod(spec["shapes"][i]) / 1e9
            if operations / best > _LONGEST_SECONDS:
                rates[i, dtype] = None
                continue
            rate = operations / _seconds(prepared(spec["shapes"][i], dtype), spec["seconds"])
            rates[i, dtype] = rate
            best = rate if math.isinf(best) else max(best, rate)
    return {"gflops": [rates[i, dtype] for i in range(len(order)) for dtype in DTYPES]}


def _seconds(product: Callable[[], Any], share: float) -> float:
    """Of one product: the median of those that `share` seconds allow, at least one, after one that warms up."""
    times: list[float] = []
    product()
    end = time.perf_counter() + share
    while not times or time.perf_counter() < end:
        before = time.perf_counter()
        product()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(json.loads(sys.argv[1]))), flush=True)
