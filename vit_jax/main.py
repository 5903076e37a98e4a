"""The program: flags -> Config -> a mode. cli/modes.py says what modes there are.

python -m vit_jax.main --config=NAME --workdir=DIR [--config.KEY=VALUE ...]           trains, or goes on
python -m vit_jax.main --mode=evaluate --workdir=DIR [--checkpoint=best|latest|STEP]  tests a run

`vit-jax` is the same program. Exit codes: 0 done; 2 a mistake in what was asked, in one message; 128 + the signal's
number (130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM) stopped after saving; 1 anything else.
"""

import contextlib
import os
import sys
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING

from vit_jax.errors import RunError, UserError, of_the_system
from vit_jax.system.stop import Stopped, StopRequest

if TYPE_CHECKING:
    from vit_jax.cli.flags import Command
    from vit_jax.config import Config


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
    except OSError as error:
        return _say(f"error: {of_the_system(error)}", 1)
    except Stopped as stopped:
        return _say(str(stopped), stopped.exit_code)
    return 0


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # no one reads it any more
        print(text, file=sys.stderr, flush=True)
    return code


def _dispatch(argv: list[str], started: float, stop: StopRequest) -> None:
    from vit_jax.cli.flags import parse

    command = parse(argv)
    flags = command.flags
    if command.mode == "list":
        from vit_jax.cli.listing import say_all

        say_all(flags.image_size, flags.num_classes)
    elif command.mode == "doctor":
        from vit_jax.cli.doctor import examine

        examine()
    elif command.mode == "prepare":
        from vit_jax.cli.prepare import prepare

        prepare(flags.name, flags.dir, flags.cache_dir, flags.image_size)
    elif command.mode == "compile":
        from vit_jax.cli.compile import compile_for
        from vit_jax.pretrained.start import keys_of_model

        assert command.config is not None
        given = keys_of_model(command.overrides)
        compile_for(command.config, command.typed, given, flags.target, flags.batch, flags.json)
    elif command.mode == "sweep":
        from vit_jax.cli.sweep import arms_of, sweep
        from vit_jax.system.disk import expanded

        assert command.config is not None
        arms, workdir = arms_of(flags.grid, flags.arm), expanded(flags.workdir)
        sweep(command.config, command.typed, workdir, flags.seeds, arms, flags.split, stop)
    else:
        _on_devices(command, started, stop)


def _on_devices(command: "Command", started: float, stop: StopRequest) -> None:
    """The modes that compute."""
    from vit_jax.config import Config
    from vit_jax.pretrained.start import keys_of_model
    from vit_jax.runs.folder import RunFolder
    from vit_jax.schema import with_overrides
    from vit_jax.system.jobs import explaining, is_first
    from vit_jax.system.progress import console
    from vit_jax.training.machine import ready

    workdir = command.flags.workdir[0] if command.mode == "report" else command.flags.workdir
    is_new = command.mode == "train" or workdir is None
    if workdir is None:  # of weights
        config = with_overrides(Config(init_from=command.flags.weights), command.overrides)
    else:
        config = command.config or RunFolder(workdir).config()
    config = ready(config, workdir, keys_of_model(command.overrides), command.peers, stop, trained=not is_new)
    with explaining():
        console.quiet = not is_first()
        _run_mode(command, config, started, stop)


def _run_mode(command: "Command", config: "Config", started: float, stop: StopRequest) -> None:
    flags = command.flags
    if command.mode == "train":
        from vit_jax.training.loop import train
        from vit_jax.training.seeds import train_each

        if config.seeds > 1 and command.peers:
            raise UserError("config.seeds needs one process; start a job for each seed, with --config.seed=N")
        if config.seeds > 1:
            train_each(config, flags.workdir, flags.resume, started, partial(train, stop=stop))
        else:
            train(config, flags.workdir, flags.resume, started, stop, command.peers)
    elif command.mode == "evaluate":
        from vit_jax.evaluation.evaluate import evaluate

        evaluate(flags.workdir, flags.checkpoint, command.overrides, stop.check)
    elif command.mode == "predict":
        from vit_jax.evaluation.predict import predict

        predict(flags.workdir, flags.checkpoint, flags.images, flags.top_k, flags.format, stop.check)
    elif command.mode == "export":
        from vit_jax.export import export

        export(flags.workdir, flags.checkpoint, flags.format, flags.output)
    elif command.mode == "features":
        from vit_jax.cli.features import features

        told = flags.images, flags.output or "features.npz", flags.tokens, command.overrides, stop.check
        features(flags.workdir, flags.checkpoint, config if flags.workdir is None else None, *told)
    elif command.mode == "fewshot":
        from vit_jax.cli.fewshot import fewshot

        of_weights = config if flags.workdir is None else None
        how = flags.shots, flags.knn, flags.linear, command.overrides, stop.check
        fewshot(flags.workdir, flags.checkpoint, of_weights, flags.output, *how)
    else:
        from vit_jax.page import build

        build.write(flags.workdir, flags.output)


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
