"""Command line: flags -> Config -> a mode.

python -m vit_jax.main --config=configs/X.py --workdir=DIR [--config.key=value ...]   trains, or goes on
python -m vit_jax.main --workdir=DIR                                                  goes on with the run in DIR
python -m vit_jax.main --mode=evaluate --workdir=DIR [--checkpoint=best|latest|STEP]  tests a run

Exit codes: 0 done; 2 a mistake in what was asked, in one message; 128 + the signal's number (130 Ctrl-C, 138 SIGUSR1,
143 SIGTERM) stopped after saving; 1 anything else.
"""

import contextlib
import os
import sys
import time
import traceback

from vit_jax.errors import RunError, UserError
from vit_jax.stop import Stopped, StopRequest


def main(argv: list[str], age: float = 0.0) -> int:
    """Runs one command and gives its exit code. `age`: seconds that Python took to come here."""
    started = time.monotonic() - age
    try:
        with StopRequest() as stop:  # first of all: a signal may come while JAX is being imported
            _dispatch(argv, started, stop)
    except UserError as error:
        return _say(f"error: {error}", 2)
    except RunError as error:
        return _say(f"error: {error}", 1)
    except OSError as error:  # a full disk, a file that others own: its name and the reason say all
        return _say(f"error: {error}; what was saved before is intact", 1)
    except Stopped as stopped:
        return _say(str(stopped), stopped.exit_code)
    return 0


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # no one reads it any more
        print(text, file=sys.stderr, flush=True)
    return code


def _dispatch(argv: list[str], started: float, stop: StopRequest) -> None:
    from vit_jax.flags import parse

    command = parse(argv)
    from vit_jax.compilation import use_cache, use_deterministic_ops
    from vit_jax.devices import use_cpu_cores
    from vit_jax.run import RunFolder

    use_cache()
    peers = command.peers
    if peers:
        from vit_jax.distributed import join

        with stop.unguarded():
            join(peers)
    config = command.config or RunFolder(command.workdir).config()
    if config.train.deterministic:
        use_deterministic_ops()
    use_cpu_cores(config, peers.num_processes or 1 if peers else 1)
    # After that: what follows may already use JAX.
    import jax

    from vit_jax.distributed import explained, is_first
    from vit_jax.evaluate import evaluate
    from vit_jax.progress import console
    from vit_jax.seeds import train_each
    from vit_jax.train import train

    console.quiet = not is_first()
    try:
        if command.mode == "evaluate":
            evaluate(command.workdir, command.checkpoint, stop.check)
        elif config.seeds > 1:
            if peers:
                raise UserError("config.seeds needs one process; start a job for each seed, with --config.seed=N")
            train_each(config, command.workdir, command.resume, started, lambda *one: train(*one, stop))
        else:
            train(command.config, command.workdir, command.resume, started, stop, peers)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if reason := explained(error):
            raise RunError(reason) from error
        raise


def run() -> None:
    """The `vit-jax` program."""
    # Until here the process did nothing but compute; when it began, it may have been the shell of scripts/train.sh.
    try:
        code = main(sys.argv, time.process_time())
    except SystemExit as done:  # --help
        code = int(done.code or 0)
    except Exception:
        traceback.print_exc()
        code = 1
    if code not in (1, 2):
        _leave_the_job()
    # Not by way of the exit handlers: JAX's would wait for the job's other processes, and a thread may be importing
    # TensorFlow for the events.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _leave_the_job() -> None:
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # the others are gone already
            jax.distributed.shutdown()


if __name__ == "__main__":
    run()
