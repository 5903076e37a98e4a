"""Command line: flags -> Config -> a mode.

python -m vit_jax.main --config=configs/X.py --workdir=DIR [--config.key=value ...]   trains, or goes on
python -m vit_jax.main --workdir=DIR                                                  goes on with the run in DIR
python -m vit_jax.main --mode=evaluate --workdir=DIR [--checkpoint=best|latest|STEP]  tests a run

Exit codes: 0 done; 2 a mistake in what was asked, in one message; 130 and 143 stopped by Ctrl-C and SIGTERM after
saving; 1 anything else.
"""

import sys
import time

from vit_jax.errors import UserError
from vit_jax.flags import Command, parse


def main(argv: list[str], age: float = 0.0) -> int:
    """Runs one command and gives its exit code. `age`: seconds that Python took to come here."""
    started = time.monotonic() - age
    try:
        command = parse(argv)
        return _dispatch(command, started)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped by SIGINT.", file=sys.stderr)
        return 130


def _dispatch(command: Command, started: float) -> int:
    from vit_jax.compilation import use_cache  # JAX is imported only once the flags are right
    from vit_jax.devices import use_cpu_cores
    from vit_jax.run import RunFolder

    use_cache()
    use_cpu_cores(command.config or RunFolder(command.workdir).config())
    # After that: what follows may already use JAX.
    from vit_jax.evaluate import evaluate
    from vit_jax.stop import Stopped
    from vit_jax.train import Diverged, train

    try:
        if command.mode == "evaluate":
            evaluate(command.workdir, command.checkpoint)
        else:
            train(command.config, command.workdir, command.resume, started)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run() -> None:
    """The `vit-jax` program."""
    # Until here the process did nothing but compute; when it began, it may have been the shell of scripts/train.sh.
    sys.exit(main(sys.argv, time.process_time()))


if __name__ == "__main__":
    run()
