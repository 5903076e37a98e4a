"""P14 to P17: finite numbers, the same numbers, all of the numbers, and flat memory."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from promises.harness import RUN, Bench, Child, arrays, call, require, rows


def p14(bench: Bench) -> Iterator[str]:
    """A loss or gradient that isn't finite stops the run within a step, says where, and no such state is kept."""
    stopped = 0
    rates = (1e30, 1e10, 1e20, 1e25, 1e35, 3e38)
    for rate in rates[: bench.times(1, 6)]:
        workdir = bench.new()
        args = [f"--config.optim.learning_rate={rate}", "--config.optim.clip_norm=none"]
        args += ["--config.checkpoint.every=1 steps", "--config.train.length=60 steps", "--config.optim.eps=1e-30"]
        code, printed = call(*RUN, *args, "--config.eval.every=0 steps", f"--workdir={workdir}")
        if code == 0:
            require(all(np.isfinite(row["loss"]) for row in rows(workdir)), "a loss that isn't finite went by")
            yield f"learning rate {rate:g}: stayed finite"
            continue
        require(code == 1 and "Traceback" not in printed, printed[-300:])
        where = re.search(
            r"gradient norm \S+ at step (\d+) \(learning rate|isn't finite after step (\d+).*\(learning.*gradient norm",
            printed,
        )
        require(where, printed[-300:])
        step = int(where[1] or where[2])
        require(all(np.isfinite(row["loss"]) for row in rows(workdir)), "a loss that isn't finite was logged")
        if where[1]:
            logged = [row["step"] for row in rows(workdir) if row["split"] == "train"]
            require(logged[-1] == step - 1, f"it stopped at {step}, the last that is logged is {logged[-1]}")
        kept = [int(p.name) for p in (workdir / "checkpoints").iterdir()]
        require(kept and max(kept) <= step, f"{kept} are kept, it stopped at {step}")
        for kept_step in kept:
            finite = all(np.isfinite(x).all() for x in arrays(workdir, kept_step).values())
            require(finite, f"checkpoint {kept_step} isn't finite")
        stopped += 1
        yield f"learning rate {rate:g}: stopped at step {step}"
    require(stopped, "no learning rate was too high")


def p15(bench: Bench) -> Iterator[str]:
    """The same seed gives the same bits, another seed others."""
    import jax

    straight = bench.straight(jax.device_count())
    for seed in (0, 1, 2)[: bench.times(1, 3)]:
        workdirs = [bench.new() for _ in range(1 if seed == 0 else 2)]
        for workdir in workdirs:
            require(call(*RUN, f"--config.seed={seed}", f"--workdir={workdir}")[0] == 0, "the run failed")
        first, last = arrays(straight if seed == 0 else workdirs[0]), arrays(workdirs[-1])
        require(all(first[k].tobytes() == last[k].tobytes() for k in first), f"seed {seed} gave other bits")
        if seed:
            kernel = next(k for k in first if k.endswith("['kernel']"))
            require((first[kernel] != arrays(straight)[kernel]).any(), "another seed gave the same")
        yield f"seed {seed}"


def p16(bench: Bench) -> Iterator[str]:
    """10,000 images are 10,000, as many of them right, at every batch size and number of devices."""
    import dataclasses

    import jax
    from jax.sharding import AxisType, Mesh

    from vit_jax.config import Config, EvalConfig, ModelConfig
    from vit_jax.evaluation.evaluate import Evaluator
    from vit_jax.evaluation.logits import score
    from vit_jax.models import create
    from vit_jax.steps import state as states
    from vit_jax.system.sharding import replicated

    rng = np.random.RandomState(0)
    images, labels = rng.randint(256, size=(10_000, 8, 8, 3)).astype(np.uint8), rng.randint(10, size=10_000)
    model = ModelConfig(num_classes=10, image_size=8, patch_size=4, width=8, depth=1, heads=1, mlp_dim=8)
    model = dataclasses.replace(model, head_dim=8, dtype="float32", attention="xla")
    module = create(model)
    params = states.init_params(module, np.uint32(0))
    right = set()
    cases = [(batch, devices) for devices in (1, 3, 8) for batch in (1, 7, 256, 512, 10_000)]
    for batch, devices in cases if bench.full else [(512, 3), (10_000, 1)]:
        if devices > jax.device_count():
            continue
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
        config = Config(model=model, eval=EvalConfig(batch_size=batch))
        config = dataclasses.replace(
            config, augment=dataclasses.replace(config.augment, mean=(0.5,) * 3, std=(0.2,) * 3)
        )
        everywhere = jax.device_put(params, replicated(mesh))
        logits = Evaluator(module, config, mesh, params, (8, 8, 3)).logits(everywhere, images)
        found = score(logits, labels)
        require(found["num_examples"] == len(logits) == 10_000, f"{len(logits)} images were counted")
        right.add(round(found["top1"] * 10_000))
        require(len(right) == 1, f"{right} were right")
        yield f"batch {batch}, {devices} devices"


def p17(bench: Bench) -> Iterator[str]:
    """From epoch 2 to epoch 20 memory grows by at most 5 %, open files not at all."""
    # A model of a real size; of a small one in a sample, where the 16 MiB that glibc takes at a time are 4 %.
    epochs, allowed = (20, 0.05) if bench.full else (5, 0.1)
    size = ["--config.model.width=192", "--config.model.depth=6", "--config.model.mlp_dim=768"]
    size = size if bench.full else ["--config.model.depth=1"]
    for pipeline in ("resident", "mapped")[: bench.times(1, 2)]:
        workdir = bench.new()
        samples: dict[int, list[tuple[int, int]]] = {n: [] for n in range(epochs + 1)}  # KiB and files, by epochs done
        args = ["--config=configs/quickstart.py", *size, f"--config.train.length={epochs} epochs"]
        args += ["--config.eval.every=1 epoch", "--config.checkpoint.every=1 epoch"]
        args += ["--config.log.tensorboard=false", f"--config.data.pipeline={pipeline}"]
        with Child(*args, f"--workdir={workdir}", log=bench.new("log")) as child:
            proc = Path(f"/proc/{child.process.pid}")
            while child.process.poll() is None:
                done = child.printed().count("|  validation loss")
                try:
                    rss = int(re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())[1])
                    samples[done].append((rss, len(os.listdir(proc / "fd"))))
                except (OSError, TypeError):
                    break
                time.sleep(0.01)
            require(child.wait() == 0, child.tail())
        (early, early_files), (late, late_files) = (
            tuple(zip(*samples[n], *samples[n + 1], strict=True)) for n in (2, epochs - 2)
        )
        growth = median(late) / median(early) - 1
        more = min(late_files) - min(early_files)  # a save opens some for a moment
        require(growth <= allowed, f"{pipeline}: memory grew by {100 * growth:.1f} %")
        require(more <= 0, f"{pipeline}: {more} more files are open")
        yield f"{pipeline}: {100 * growth:+.1f} % of {median(early) / 1024:,.0f} MiB, {more:+d} files"
