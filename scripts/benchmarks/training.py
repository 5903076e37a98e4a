"""Contestants beside each other: training step, inference, augmentation's share."""

import argparse
import importlib.util
import os
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.child import SCRIPTS, result_of


@dataclass(frozen=True)
class Contestant:
    name: str
    adapter: str  # of worker.ADAPTERS
    dtype: str
    compiled: bool | str  # a text: the mode of torch.compile
    needs: str  # the module without which it is absent
    environment: tuple[tuple[str, str], ...] = ()
    tasks: tuple[str, ...] = ("training", "inference")


CONTESTANTS = (
    Contestant("vit_jax", "vit_jax", "float32", True, "jax"),
    Contestant("vit_jax_1_device", "vit_jax", "float32", True, "jax", (("JAX_NUM_CPU_DEVICES", "1"),)),
    Contestant("vit_jax_bf16", "vit_jax", "bfloat16", True, "jax"),
    Contestant("keras_tensorflow", "keras", "float32", False, "tensorflow", (("KERAS_BACKEND", "tensorflow"),)),
    Contestant("keras_tensorflow_jit", "keras", "float32", True, "tensorflow", (("KERAS_BACKEND", "tensorflow"),)),
    Contestant("keras_jax", "keras", "float32", False, "keras", (("KERAS_BACKEND", "jax"),)),
    Contestant("onnxruntime", "onnx", "float32", True, "onnxruntime", tasks=("inference",)),
    Contestant("torch_eager", "torch", "float32", False, "torch"),
    Contestant("torch_eager_bf16", "torch", "bfloat16", False, "torch"),
    Contestant("torch_compile", "torch", "float32", True, "torch"),
    # By CUDA graphs; Triton comes with PyTorch's builds for GPUs.
    Contestant("torch_compile_bf16_graphs", "torch", "bfloat16", "reduce-overhead", "triton"),
    Contestant("torch_compile_bf16", "torch", "bfloat16", True, "torch"),
)


def chosen(task: str, names: str | None, dtype: str | None) -> list[Contestant]:
    """Those that can do the task ("training" or "inference"), ours first, by parts of names and by dtype."""
    parts = names.split(",") if names else [""]
    able = [c for c in CONTESTANTS if task in c.tasks and dtype in (None, c.dtype)]
    return [c for c in able if any(part in c.name for part in parts)]


def run_worker(contestant: Contestant, spec: dict[str, Any]) -> dict[str, Any]:
    """Runs one contestant in a process of its own and gives what it measured, or {"failed": its last words}."""
    spec = {"adapter": contestant.adapter, "dtype": contestant.dtype, "compiled": contestant.compiled, **spec}
    paths = (str(SCRIPTS.parent), os.environ.get("PYTHONPATH", ""))
    return result_of("benchmarks.worker", spec, paths, dict(contestant.environment))


def needed(contestant: Contestant, spec: dict[str, Any]) -> dict[str, Any]:
    """As `run_worker`, for a figure without which there is no result: ends the program if it fails."""
    result = run_worker(contestant, spec)
    if "failed" in result:
        raise SystemExit(f"error: {contestant.name} on {spec.get('model', spec)}: {result['failed']}")
    return result


def rounds(contestants: list[Contestant], spec: dict[str, Any], count: int) -> dict[str, list[dict[str, Any]]]:
    """What each contestant measured in each round; one that isn't installed or fails is left out of later rounds."""
    results: dict[str, list[dict[str, Any]]] = {c.name: [] for c in contestants}
    out = {c.name for c in contestants if importlib.util.find_spec(c.needs) is None}
    for i in range(count):
        for contestant in contestants:
            if contestant.name in out:
                continue
            result = run_worker(contestant, spec)
            results[contestant.name].append(result)
            if "failed" in result:
                out.add(contestant.name)
            said = result.get("failed") or f"{statistics.median(result['seconds']):.4f} s a step"
            print(f"round {i + 1} of {count}: {contestant.name}: {said}", file=sys.stderr, flush=True)
    return results


def summary(
    contestants: list[Contestant], results: dict[str, list[dict[str, Any]]], reference: str
) -> list[dict[str, Any]]:
    """A row for each contestant: medians over rounds, ranges, and the ratio to `reference` round by round."""
    rows = []
    medians = {name: [statistics.median(r["seconds"]) for r in rs if "failed" not in r] for name, rs in results.items()}
    for contestant in contestants:
        row: dict[str, Any] = {"contestant": contestant.name, "dtype": contestant.dtype}
        own = [r for r in results[contestant.name] if "failed" not in r]
        if not results[contestant.name]:
            rows.append({**row, "absent": f"{contestant.needs} is not installed"})
            continue
        if not own:
            rows.append({**row, "absent": results[contestant.name][0]["failed"]})
            continue
        seconds = medians[contestant.name]
        median = statistics.median(seconds)
        ratios = [a / b for a, b in zip(seconds, medians.get(reference, []), strict=False)]
        rows.append(
            {
                **row,
                "seconds_per_step": median,
                "lowest": min(seconds),
                "highest": max(seconds),
                "images_per_second": own[0]["batch_size"] / median,
                "times_ours": statistics.median(ratios) if ratios else None,
                "ratio_by_round": [round(r, 3) for r in ratios],
                "cpu_seconds_per_step": statistics.median(r["cpu_seconds_per_step"] for r in own),
                "peak_memory_gib": max(r["peak_memory_bytes"] for r in own) / 2**30,
                "accelerator_gib": max(r["accelerator_bytes"] for r in own) / 2**30
                if own[0]["accelerator_bytes"]
                else None,
                "ready_seconds": statistics.median(r["ready_seconds"] for r in own),
                "params": own[0]["params"],
                "batch_size": own[0]["batch_size"],
                "mfu": statistics.median([r["mfu"] for r in own]) if own[0].get("mfu") else None,
                "seconds_by_round": seconds,
            }
        )
    counts = {row["params"] for row in rows if "params" in row}
    if len(counts) > 1:
        raise SystemExit(f"error: the contestants' models differ in size: {sorted(counts)} parameters")
    return rows


def reference_of(contestants: list[Contestant]) -> str:
    """The first of ours, to which the others are compared."""
    return next((c.name for c in contestants if c.adapter == "vit_jax"), "")


def train(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One training step of --model. `times_ours` is how many times as long as our first's a contestant takes."""
    contestants = chosen("training", args.contestants, args.dtype)
    spec = {"task": "training", "model": args.model, "batch_size": args.batch}
    spec |= {"steps": args.steps, "warmup": args.warmup}
    return summary(contestants, rounds(contestants, spec, args.rounds), reference_of(contestants))


def inference(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Logits of a batch of 1 and of 256 images (or --batch): `seconds_per_step` is the latency of one batch."""
    rows = []
    for batch in [args.batch] if args.batch else [1, 256]:
        contestants = chosen("inference", args.contestants, args.dtype)
        spec = {"task": "inference", "model": args.model, "batch_size": batch}
        spec |= {"steps": args.steps * (20 if batch == 1 else 1), "warmup": args.warmup}
        rows += summary(contestants, rounds(contestants, spec, args.rounds), reference_of(contestants))
    return rows


def augment(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Our step with and without the augmentation of --model's config; `share` is what it adds to a step."""
    ours = CONTESTANTS[0]
    spec = {"task": "training", "model": args.model, "batch_size": args.batch}
    spec |= {"steps": args.steps, "warmup": args.warmup}
    pairs = []
    for i in range(args.rounds):
        pair = [statistics.median(needed(ours, {**spec, "augment": on})["seconds"]) for on in (False, True)]
        pairs.append(pair)
        print(f"round {i + 1}: {pair[0]:.4f} s without, {pair[1]:.4f} s with", file=sys.stderr, flush=True)
    shares = [on / off - 1 for off, on in pairs]
    return [
        {
            "contestant": ours.name,
            "seconds_without": statistics.median(p[0] for p in pairs),
            "seconds_with": statistics.median(p[1] for p in pairs),
            "share": statistics.median(shares),
            "share_by_round": [round(s, 4) for s in shares],
        }
    ]
