"""Command line: flags -> Config -> a mode.

python -m vit_jax.main --config=configs/X.py --workdir=DIR [--config.key=value ...]   trains, or goes on
python -m vit_jax.main --workdir=DIR                                                  goes on with the run in DIR
python -m vit_jax.main --mode=evaluate --workdir=DIR [--checkpoint=best|latest|STEP]  tests a run
python -m vit_jax.main --mode=predict --workdir=DIR --images PATH ...                 classifies your own images
python -m vit_jax.main --mode=export --workdir=DIR --format=FORMAT                    writes it for other programs
python -m vit_jax.main --mode=fewshot --workdir=DIR                                   tests features on few examples
python -m vit_jax.main --mode=list                                                    the models that have a name
python -m vit_jax.main --mode=doctor                                                  what is installed and found here

Exit codes: 0 done; 2 a mistake in what was asked, in one message; 128 + the signal's number (130 Ctrl-C, 138 SIGUSR1,
143 SIGTERM) stopped after saving; 1 anything else.
"""

import contextlib
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

from vit_jax.errors import RunError, UserError
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
    from vit_jax.cli.flags import parse

    command = parse(argv)
    if command.mode == "list":
        from vit_jax.cli.listing import list_models

        return list_models(command.image_size, command.num_classes)
    if command.mode == "doctor":
        from vit_jax.cli.doctor import examine

        return examine()
    from vit_jax.runs.folder import RunFolder
    from vit_jax.steps.cpu import use_cpu_cores
    from vit_jax.system.compilation import use_cache, use_deterministic_ops

    use_cache()
    peers = command.peers
    if peers:
        from vit_jax.system.jobs import join

        with stop.unguarded():
            join(peers)
    config = command.config or RunFolder(command.workdir).config()
    if config.init_from and command.mode == "train":
        from vit_jax.pretrained.start import with_model

        config = with_model(config, command.workdir, command.model_keys)
    if config.train.deterministic:
        use_deterministic_ops()
    use_cpu_cores(config, peers.num_processes or 1 if peers else 1)
    # After that: what follows may already use JAX.
    import jax

    from vit_jax.system.jobs import explained, is_first
    from vit_jax.system.progress import console

    console.quiet = not is_first()
    try:
        _run_mode(command, config, started, stop)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if reason := explained(error):
            raise RunError(reason) from error
        raise


def _run_mode(command: "Command", config: "Config", started: float, stop: StopRequest) -> None:
    if command.mode == "evaluate":
        from vit_jax.evaluation.evaluate import evaluate

        evaluate(command.workdir, command.checkpoint, stop.check)
    elif command.mode == "predict":
        from vit_jax.evaluation.predict import predict

        predict(command.workdir, command.checkpoint, command.images, command.top_k, command.format, stop.check)
    elif command.mode == "export":
        from vit_jax.export import export

        export(command.workdir, command.checkpoint, command.format, command.output)
    elif command.mode == "fewshot":
        from vit_jax.evaluation.fewshot import fewshot

        fewshot(command.workdir, command.checkpoint, command.shots, stop.check)
    elif config.seeds > 1:
        from vit_jax.training.loop import train
        from vit_jax.training.seeds import train_each

        if command.peers:
            raise UserError("config.seeds needs one process; start a job for each seed, with --config.seed=N")
        train_each(config, command.workdir, command.resume, started, lambda *one: train(*one, stop))
    else:
        from vit_jax.training.loop import train

        train(config, command.workdir, command.resume, started, stop, command.peers)


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
