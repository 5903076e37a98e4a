"""Where the time of our step goes: the operations of one step, by the part of the model that they belong to."""

import argparse
import collections
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shapes import config_of

# First match wins, on an operation's path, like "transpose(jvp(VisionTransformer))/block_03/mlp/dense_0/dot_general".
PARTS = (
    ("waiting for and adding up devices", r"^all-reduce|^all-gather"),
    ("dense layers and convolutions", r"(qkv|out|dense_\d|proj|logits|conv_\d)/"),
    ("attention", r"/attention/"),
    ("layer norms", r"norm"),
    ("MLP: activation and dropout", r"/mlp/"),
    ("residuals, stem, head and loss", r"jvp\("),
    ("optimizer, data, augmentation", r""),
)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of a step by part, as XLA's own trace has them, averaged over devices and steps.

    Matmuls that XLA runs beside others, as it does with the gradients of kernels, lengthen those instead of having
    time of their own.
    """
    import jax

    from benchmarks import ours

    config = config_of(args.model, args.batch, args.dtype or "float32", augment=True)
    step, program = ours.training_with_program(config)
    for _ in range(args.warmup):
        step().block_until_ready()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(args.steps):
                step().block_until_ready()
        files = sorted(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(files[-1].read_bytes()))["traceEvents"]
    return table(events, program.text(), args.steps * jax.device_count())


def table(events: list[dict[str, Any]], program: str, runs: int) -> list[dict[str, Any]]:
    """Rows of parts from the events of a trace and the compiled program's text."""
    names = {}
    for line in program.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?(\S+) = ", line)
        if match:
            path = re.search(r'op_name="(.*?)"', line)
            names[match[1]] = path[1] if path else ""
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        # A loop's own event holds those of the operations in it.
        if event.get("ph") != "X" or operation is None or operation.startswith("while"):
            continue
        path = names.get(operation, "")
        text = operation if operation.startswith(("all-reduce", "all-gather")) else path
        part = next(name for name, pattern in PARTS if re.search(pattern, text))
        spent[part] += event["dur"] / 1000 / runs
    total = sum(spent.values())
    rows = [
        {"part": name, "milliseconds": spent[name], "share": spent[name] / total} for name, _ in PARTS if spent[name]
    ]
    return [*rows, {"part": "all", "milliseconds": total, "share": 1.0}]
