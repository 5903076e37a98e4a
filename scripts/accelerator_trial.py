"""A trial on a borrowed accelerator: what can be learnt in a quarter of an hour, in at most three calls.

python scripts/accelerator_trial.py pack                    here: fills build/trial/1, build/trial/2, to be carried
python scripts/accelerator_trial.py run --seconds=480       there, in each call: goes on where the one before ended
python scripts/accelerator_trial.py run --rehearse          here: all of it on a CPU, as small as it gets

In order: correctness without data, speed beside torch.compile, then the recipes on CIFAR-10 once its pieces are all
there. Each part is a process of its own with a limit, and what it finds is on the disk at once: in --work, and in --out
as trial.jsonl; at the end of a call come trial.md, for people, and logs.txt, the ends of what the parts printed.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from trial import report  # noqa: E402 - after the path
from trial.child import REPOSITORY  # noqa: E402
from trial.parts import ON_EACH_MACHINE, Places, parts_of  # noqa: E402
from trial.record import Record  # noqa: E402
from trial.runner import run_parts  # noqa: E402

# Rehearsals compile far longer than they compute.
_QUICK_COMPILING = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def environment_of(places: Places) -> dict[str, str]:
    """Of the parts: this code before the machine's packages, and one cache of compiled steps for all."""
    paths = [places.site, REPOSITORY / "scripts", REPOSITORY]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "JAX_TRACEBACK_FILTERING": "off",  # else an error's last line is about that
        "VIT_JAX_CACHE": str(places.cache),
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(places.work / "compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if places.rehearse:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK_COMPILING}".strip()
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": flags}
    return environment


def run(args: argparse.Namespace) -> int:
    places = Places(args.work.absolute(), args.carried.absolute(), args.rehearse)
    places.pieces.mkdir(parents=True, exist_ok=True)
    for piece in places.carried.glob("*/pieces/*.npz"):  # the next call may not carry it again
        if not (places.pieces / piece.name).exists():
            shutil.copy(piece, places.pieces)
    for name in ("pack.json", "predicted.json"):
        for carried in places.carried.glob(f"*/{name}"):
            shutil.copy(carried, places.work)
    total = json.loads(places.pack.read_text())["pieces"] if places.pack.exists() else None
    record = Record(places.work, args.out, places.carried / "trial.jsonl", anew=ON_EACH_MACHINE)
    parts = parts_of(places, total)
    wanted = [part for part in parts if not args.parts or part.name in args.parts.split(",")]
    if any(call["rehearsal"] != args.rehearse for call in record.of("", "call")):
        print(f"error: {args.work} holds a trial that was {'real' if args.rehearse else 'rehearsed'}: name another "
              "--work, or delete it", file=sys.stderr)  # fmt: skip
        return 2
    record.add("call", seconds=args.seconds, rehearsal=args.rehearse, pieces=len(list(places.pieces.glob("*.npz"))))
    try:
        again = args.parts.split(",") if args.parts else ()
        run_parts(wanted, record, args.seconds, environment_of(places), args.work / "logs", again)
    finally:
        text = report.write(args.out / "trial.md", parts, record)
        report.write_tails(args.out / "logs.txt", args.work / "logs")
    print(text)
    return int(any(record.status(part.name) != "done" for part in parts))


def pack(args: argparse.Namespace) -> int:
    sys.path.insert(1, str(REPOSITORY))
    from trial import pack as packing

    from vit_jax.errors import UserError

    try:
        folders = packing.pack(args.carried, args.python, args.limit, args.predicted)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {size / 2**20:.1f} MiB")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("pack", pack), ("run", run)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--carried", type=Path, default=REPOSITORY / "build/trial", help="what calls carry")
        if name == "pack":
            command.add_argument("--python", default="3.12", help="of the machine")
            command.add_argument("--limit", type=float, default=64, help="MiB of a call, the working tree included")
            command.add_argument("--predicted", type=Path, nargs="+", default=[], help="of vit-jax compile --json")
        else:
            command.add_argument("--seconds", type=float, default=570, help="that this call may take")
            command.add_argument("--parts", help="only these, separated by commas")
            command.add_argument("--rehearse", action="store_true", help="on a CPU, as small as it gets")
            command.add_argument("--work", type=Path, help="kept between calls (runs/trial; runs/trial_rehearsal)")
            command.add_argument("--out", type=Path, default=None, help="what comes back (default: $OUT, else --work)")
    args = parser.parse_args()
    if args.function is run and args.work is None:
        args.work = REPOSITORY / ("runs/trial_rehearsal" if args.rehearse else "runs/trial")
    if args.function is run and args.out is None:
        args.out = Path(os.environ.get("OUT", args.work))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the part under way, too
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
