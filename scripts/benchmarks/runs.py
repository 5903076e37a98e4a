"""Whole runs of the program: from command to first step, and resident memory over epochs."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def _start(workdir: Path, cache: Path, *args: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"VIT_JAX_CACHE": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-m", "vit_jax.main", f"--workdir={workdir}", *args, "--config.log.every=1 steps"],
        cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _data(args: argparse.Namespace) -> list[str]:
    return [f"--config.data.dir={Path(args.data_dir).resolve()}"] if args.data_dir else ["--config.data.name=fake"]


def startup(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from command to the end of the first step of ViT-Ti/4, its parts; cold and warm compile cache.

    The images lie decoded in the array cache both times.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        config = ["--config=configs/vit_ti4_cifar10.py", *_data(args), "--config.train.length=2 steps"]
        config += ["--config.optim.warmup=1 steps", "--config.eval.every=100 steps", "--config.log.tensorboard=false"]
        config += ["--config.data.validation=", "--config.data.train=train[:512]", "--config.data.test=test[:64]"]
        for kind in ["prepare"] + ["cold", "warm"] * args.rounds:
            if kind == "cold":
                subprocess.run(["rm", "-rf", str(cache / "compiled")], check=True)
            workdir = Path(folder) / f"{len(rows)}_{kind}"
            if _start(workdir, cache, *config).wait():
                raise SystemExit("error: the run failed; try its command: vit-jax " + " ".join(config))
            seconds = json.loads((workdir / "results.json").read_text())["startup_seconds"]
            if kind != "prepare":
                rows.append({"cache": kind, "first_step_done": sum(seconds.values()), **seconds})
                print(f"{kind}: {rows[-1]['first_step_done']:.1f} s", file=sys.stderr, flush=True)
    medians = []
    for kind in ("cold", "warm"):
        own = [row for row in rows if row["cache"] == kind]
        median = {key: statistics.median(row[key] for row in own) for key in own[0] if key != "cache"}
        medians.append({"cache": f"{kind}, median of {len(own)}", **median})
    return [*rows, *medians]


def memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Resident memory at the end of each of 20 epochs of a small run, and its growth from epoch 2 to 20.

    Without TensorBoard, for which TensorFlow is imported some seconds after the first step, in whatever epoch that is.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        config = ["--config=configs/debug.py", "--config.train.length=20 epochs", "--config.eval.every=1 epochs"]
        config += ["--config.checkpoint.every=1 epochs", "--config.data.name=digits", "--config.log.tensorboard=false"]
        process = _start(workdir, Path(folder) / "cache", *config)
        metrics = workdir / "metrics.jsonl"
        while process.poll() is None:
            done = metrics.read_text().count('"split": "validation"') if metrics.exists() else 0
            if done > len(rows):
                with contextlib.suppress(OSError, StopIteration):  # it has just ended
                    rows.append({"epoch": done, "resident_mib": _resident(process.pid), "peak_mib": _peak(process.pid)})
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"error: the run failed with exit code {process.returncode}")
    first = next(row for row in rows if row["epoch"] >= 2)
    growth = {f"{key}": rows[-1][key] / first[key] - 1 for key in ("resident_mib", "peak_mib")}
    return [*rows, {"epoch": f"growth from {first['epoch']} to {rows[-1]['epoch']}", **growth}]


def _resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
