"""Tries each promise of README.md many times over and prints a table; ends non-zero if one broke.

python scripts/torture.py [--quick] [--promises=P1,P8] [--seed=0] [--json=FILE]

The trials are in tests/promises/ and, for files from strangers, in tests/. Two lanes go on at once: child processes
that get real signals, and runs in this process; everything lies in one temporary folder that is removed at the end.
--quick is a sample of each promise, in one to two minutes on two cores; all of it takes about half an hour.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promises.everything import Promise

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sample of each promise")
    parser.add_argument("--promises", help="only these, like P1,P8")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants and places")
    parser.add_argument("--json", help="a file for the table")
    args = parser.parse_args()
    started = time.monotonic()
    os.chdir(REPOSITORY)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="vit_jax_torture_", ignore_cleanup_errors=True) as name:
        try:
            rows = _try(Path(name), args)
        except KeyboardInterrupt:
            _end_children()
            print("Stopped.", file=sys.stderr)
            return 130
    print(f"\n{'':4} {'tried':>6} {'held':>6} {'s':>6}  promise")
    for row in rows:
        print(f"{row['name']:4} {row['tried']:6} {row['held']:6} {row['seconds']:6.0f}  {row['promise']}")
        if row["broken"]:
            print(f"     BROKEN: {row['broken']}")
    broken = [row["name"] for row in rows if row["broken"]]
    verdict = f"BROKEN: {', '.join(broken)}" if broken else "all that was tried held"
    print(f"{time.monotonic() - started:.0f} s, seed {args.seed}: {verdict}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2))
    return int(bool(broken))


def _try(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tries the promises in two lanes, then runs the tests; a row for each, in order."""
    compiled = Path(tempfile.gettempdir()) / f"vit_jax_tests_{os.getuid()}"  # the tests' own: compiled once for both
    compiled.mkdir(mode=0o700, exist_ok=True)
    os.environ.update(
        VIT_JAX_CACHE=str(folder / "cache"),
        JAX_PLATFORMS="cpu",
        JAX_NUM_CPU_DEVICES="2" if args.quick else "8",  # eight are slow on few cores
        JAX_COMPILATION_CACHE_DIR=str(compiled),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    from promises.everything import CHILDREN, HERE, NOT_TRIED, TESTS  # JAX reads these variables now
    from promises.harness import StraightRuns

    names = {*CHILDREN, *HERE, *NOT_TRIED, *TESTS}
    wanted = set(args.promises.upper().split(",")) if args.promises else names
    if wanted - names:
        sys.exit(f"error: no promise {', '.join(sorted(wanted - names))}; there are {', '.join(sorted(names))}")
    rows = [_row(name, NOT_TRIED[name], 0, 0, 0.0) for name in wanted & NOT_TRIED.keys()]
    straight = StraightRuns(folder / "straight")

    def go(lane: dict[str, "Promise"]) -> None:
        rows.extend(_trials(name, lane[name], folder, args, straight) for name in lane if name in wanted)

    beside = threading.Thread(target=go, args=(CHILDREN,), daemon=True)
    beside.start()
    go(HERE)
    if wanted & TESTS.keys():
        rows += _tests(folder, wanted, args.quick)
    beside.join()
    return sorted(rows, key=lambda row: int(row["name"][1:]))


def _end_children() -> None:
    """Kills what this process has started, each with all that it has started itself."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parent, group = map(int, stat.read_text().rsplit(")", 1)[1].split()[1:3])
            if parent == os.getpid() and group != os.getpgrp():
                os.killpg(group, signal.SIGKILL)


def _tell(text: str) -> None:
    # The runs in this process have their output, sys.stdout, caught meanwhile.
    print(text, file=sys.__stdout__, flush=True)


def _row(name: str, promise: str, tried: int, held: int, seconds: float, broken: str | None = None) -> dict[str, Any]:
    return dict(name=name, promise=promise, tried=tried, held=held, seconds=seconds, broken=broken)


def _trials(name: str, promise: "Promise", folder: Path, args: argparse.Namespace, straight: Any) -> dict[str, Any]:
    from promises.harness import Bench, Broken

    begun, held, broken = time.monotonic(), 0, None
    try:
        for what in promise(Bench(folder / name, not args.quick, random.Random(f"{args.seed} {name}"), straight)):
            held += 1
            _tell(f"{name}: {what}")
    except Broken as error:
        broken = str(error)
    except Exception as error:  # a trial that fails in a way of its own has shown nothing
        broken = f"{type(error).__name__}: {error}"
    _tell(f"{name}: {'BROKEN: ' + broken if broken else 'held'}")
    text = " ".join(promise.__doc__.split())
    return _row(name, text, held + bool(broken), held, time.monotonic() - begun, broken)


def _tests(folder: Path, wanted: set[str], quick: bool) -> list[dict[str, Any]]:
    """Runs the tests that prove a promise; those of --quick are the first few of each."""
    from promises.everything import TEST_FILES, TESTS

    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
    words = " or ".join(word for name in sorted(wanted & TESTS.keys()) for word in TESTS[name][1])
    if quick:
        words = f"({words}) and not real_size and not damaged_archives and not hostile_caches"
    command += [*TEST_FILES, "-k", words, f"--junitxml={report}"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdout=subprocess.DEVNULL, start_new_session=True, timeout=600)
    cases = list(xml.etree.ElementTree.parse(report).iter("testcase")) if report.exists() else []
    rows = []
    for name in wanted & TESTS.keys():
        promise, words = TESTS[name]
        own = [case for case in cases if any(word in case.get("name") for word in words)]
        own = [case for case in own if case.find("skipped") is None]
        failed = [
            case.get("name") for case in own if case.find("failure") is not None or case.find("error") is not None
        ]
        broken = ", ".join(failed) or (None if own else "no test ran")
        seconds = sum(float(case.get("time")) for case in own)
        rows.append(_row(name, promise, len(own), len(own) - len(failed), seconds, broken))
    return rows


if __name__ == "__main__":
    sys.exit(main())
