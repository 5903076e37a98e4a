"""Writes one HTML page about runs: results, curves, configs, mistakes, attention, what was learned.

python scripts/report.py WORKDIR [WORKDIR ...] [--output=report.html]

A WORKDIR holds a run, finished or not, or those of several seeds. The page is one file that needs no network; by
default it is report.html in the first folder. Pictures of images need the data set where the run's config has it.
"""

import argparse
import sys
import time

from vit_jax.errors import RunError, UserError
from vit_jax.page import build
from vit_jax.runs.folder import RunFolder
from vit_jax.steps.cpu import use_cpu_cores
from vit_jax.system.compilation import use_cache
from vit_jax.system.progress import say


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument("--output", metavar="FILE", help="by default report.html in the first folder")
    args, started = parser.parse_args(argv), time.monotonic()
    try:
        use_cache()
        use_cpu_cores(RunFolder(args.workdirs[0]).config())
        path = build.write(args.workdirs, args.output)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:  # a file of a run that others own
        print(f"error: {error}", file=sys.stderr)
        return 1
    say(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, written in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
