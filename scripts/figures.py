"""The published figures that two cores can make again within an hour: what was recorded, and what comes out now.

scripts/release_check.py runs them. Each is a function of a `Bench` that yields `Row`s; what takes long lies in a folder
of its own under the bench's, so that one that was stopped goes on.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_jax.runs import metrics
from vit_jax.system import environment, processor

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    claim: str
    recorded: str
    now: str
    agrees: bool | None  # None: nothing to compare with on this machine


@dataclass(frozen=True)
class Bench:
    """Where the runs lie, and the data."""

    folder: Path
    data_dir: Path | None  # a prepared TFDS folder with CIFAR-10

    def train(self, name: str, *args: str) -> Path:
        """Trains, or goes on with, the run of this name; gives its folder."""
        workdir = self.folder / name
        self.python("-m", "vit_jax.main", f"--workdir={workdir}", *args)
        return workdir

    def python(self, *args: str) -> str:
        """What a program prints, shown too; raises CalledProcessError where it fails."""
        print(f"\n$ python {' '.join(args)}", flush=True)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
        if self.data_dir:
            environment["TFDS_DATA_DIR"] = str(self.data_dir)
        command = [sys.executable, *args]
        printed = []
        with subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child:
            for line in child.stdout or ():
                print(line, end="", flush=True)
                printed.append(line)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, command)
        return "".join(printed)


def kind() -> str:
    """Of the CPU, as RECORDS.md keeps a table for each."""
    names = processor.instruction_sets()
    return next((name for name in ("AMX", "AVX-512", "AVX2") if name in names), "another CPU")


def quickstart(bench: Bench) -> Iterator[Row]:
    summary = _read(bench.train("quickstart", "--config=quickstart", "--config.seeds=5") / "summary.json")
    top1 = summary["top1"]
    found = 100 * top1["mean"], 100 * top1["sd"]
    yield _of_seeds("quickstart, test top-1, five seeds, %", (98.94, 0.36), found, 5)


def article(bench: Bench) -> Iterator[Row]:
    """Its rate is constant: two epochs are the first two of ten."""
    workdir = bench.train("article", "--config=article", "--config.train.length=2 epochs")
    rows = [row for row in metrics.read(workdir) if row["split"] == "validation"]
    for epoch, (recorded, row) in enumerate(zip((46.92, 53.76), rows, strict=True), 1):
        name = f"article, validation top-1 after epoch {epoch}, one seed, %"
        yield _within(name, recorded, 100 * row["top1"], 1.5)


def conv_stem(bench: Bench) -> Iterator[Row]:
    found = _read(bench.train("conv_stem", "--config=conv_stem_cifar10") / "results.json")
    yield _within("conv_stem_cifar10, test top-1, one seed, %", 75.92, 100 * found["top1"], 1.0)
    yield _within("conv_stem_cifar10, test top-5, one seed, %", 98.47, 100 * found["top5"], 0.5)


def laptop(bench: Bench) -> Iterator[Row]:
    """By the clock, so that it depends on the CPU."""
    found = _read(bench.train("laptop", "--config=laptop") / "results.json")
    recorded = {"AVX-512": (85.33, 86.71), "AMX": (85.12, 86.55), "AVX2": (80.23, 81.63)}.get(kind())
    for i, (key, name) in enumerate({"top1": "test top-1", "top1_flips": "with flips"}.items()):
        name = f"laptop on {kind()}, {name}, seed 0, %"
        yield _within(name, recorded[i] if recorded else None, 100 * found[key], 1.5)
    yield Row(
        "laptop, everything included, s", "at most 600", f"{found['total_seconds']:.0f}", found["total_seconds"] < 600
    )


def parity(bench: Bench) -> Iterator[Row]:
    """Logits of other projects' weights, each family within 2e-5 of its own."""
    printed = bench.python(
        "-m", "pytest", "-n", "0", "tests/pretrained/test_pretrained.py", "tests/pretrained/test_families.py"
    )
    (passed,) = re.findall(r"(\d+) passed", printed) or ["0"]
    yield Row(
        "weights of other projects: logits within 2e-5", "all families", f"{passed} tests passed", int(passed) > 0
    )


def torture(bench: Bench) -> Iterator[Row]:
    file = bench.folder / "torture.json"
    bench.python("scripts/torture.py", "--quick", f"--json={file}")
    rows = _read(file)
    tried, held = (sum(row[key] for row in rows) for key in ("tried", "held"))
    yield Row(f"a sample of {len(rows)} promises", "all trials held", f"{held} of {tried} held", held == tried)


def speed(bench: Bench) -> Iterator[Row]:
    """How many times as long as ours a step of the fastest peer takes; by the medians of three rounds."""
    recorded = {
        "vit_d192": {"AVX-512": 1.13, "AMX": 1.4, "AVX2": 1.13},
        "conv_stem": {"AVX-512": 1.18, "AMX": 1.5, "AVX2": 1.32},
    }
    for model, ratios in recorded.items():
        file = bench.folder / f"speed_{model}.json"
        dtype = ["--dtype=float32"] if kind() == "AVX2" else []  # PyTorch's bfloat16 takes minutes a step there
        bench.python("scripts/benchmark.py", f"--model={model}", "--rounds=3", "--steps=3", *dtype, f"--json={file}")
        rows = [row for row in _read(file)["rows"] if "absent" not in row]
        seconds = {row["contestant"]: row["seconds_per_step"] for row in rows}
        # The faster dtype, which `auto` is to take; not one device alone, which a user would have to ask for.
        ours = min(seconds[name] for name in ("vit_jax", "vit_jax_bf16") if name in seconds)
        peers = {name: value for name, value in seconds.items() if not name.startswith("vit_jax")}
        name = f"a step of {model} on {kind()}: the fastest peer takes so many times as long"
        if not any(peer.startswith("torch") for peer in peers):
            yield Row(name, f"{ratios.get(kind(), '-')}", "PyTorch is not installed", None)
            continue
        best = min(peers, key=lambda peer: peers[peer])
        ratio, before = peers[best] / ours, ratios.get(kind())
        agrees = None if before is None else abs(ratio / before - 1) < 0.25
        yield Row(name, "-" if before is None else f"{before}", f"{ratio:.2f} ({best})", agrees)


@dataclass(frozen=True)
class Figure:
    """Rows that are made together; `minutes` on two slow cores."""

    rows: Callable[[Bench], Iterator[Row]]
    minutes: int
    needs_cifar10: bool = False


FIGURES = {
    "quickstart": Figure(quickstart, 5),
    "parity": Figure(parity, 5),
    "torture": Figure(torture, 5),
    "speed": Figure(speed, 30),
    "laptop": Figure(laptop, 11, needs_cifar10=True),
    "article": Figure(article, 40, needs_cifar10=True),
    "conv_stem": Figure(conv_stem, 40, needs_cifar10=True),
}


def made(bench: Bench, names: list[str]) -> list[Row]:
    """The rows of these figures; of one that can't be made, what is in the way.

    Raises ValueError for a folder whose runs are of another commit.
    """
    commit, mark = environment.git_commit() or "", bench.folder / "commit.txt"
    if mark.exists() and mark.read_text() != commit:
        raise ValueError(f"{bench.folder} has runs of commit {mark.read_text()}, and this is {commit}; name another")
    mark.write_text(commit)
    found = []
    for name in names:
        figure = FIGURES[name]
        if figure.needs_cifar10 and bench.data_dir is None:
            found.append(Row(name, "", "left out: it needs --data_dir", None))
            continue
        try:
            found += figure.rows(bench)
        except (subprocess.CalledProcessError, OSError, KeyError, ValueError) as error:
            found.append(Row(name, "", f"failed: {error}", False))
    return found


def table(rows: list[Row]) -> str:
    """claim | recorded | now, with a mark at those that disagree."""
    lines = ["| claim | recorded | now | |", "|---|---|---|---|"]
    marks = {True: "agrees", False: "**differs**", None: ""}
    return "\n".join([*lines, *(f"| {r.claim} | {r.recorded} | {r.now} | {marks[r.agrees]} |" for r in rows)])


def _of_seeds(claim: str, recorded: tuple[float, float], found: tuple[float, float], seeds: int) -> Row:
    """Means and standard deviations of so many seeds: they agree within three standard errors of the difference."""
    error = math.sqrt((recorded[1] ** 2 + found[1] ** 2) / seeds)
    texts = [f"{mean:.2f} +- {deviation:.2f}" for mean, deviation in (recorded, found)]
    return Row(claim, *texts, abs(found[0] - recorded[0]) <= 3 * error)


def _within(claim: str, recorded: float | None, found: float, distance: float) -> Row:
    if recorded is None:
        return Row(claim, "-", f"{found:.2f}", None)
    return Row(claim, f"{recorded:.2f}", f"{found:.2f}", abs(found - recorded) <= distance)


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
