"""The programs that are compiled for devices that aren't here are those of a run."""

import dataclasses
import subprocess
import sys
from importlib import util

import jax
import numpy as np
import pytest

from configs import debug
from vit_jax.aot import programs
from vit_jax.aot.compiled import figures_of, missing_of
from vit_jax.aot.machines import Machine
from vit_jax.config import from_config_dict
from vit_jax.data import sources
from vit_jax.errors import RunError
from vit_jax.evaluation.evaluate import traced_evaluation
from vit_jax.main import main
from vit_jax.steps.losses import weights_of
from vit_jax.steps.phases import traced_step
from vit_jax.training.pieces import first_state, pieces_of, pipeline_of
from vit_jax.training.resolve import with_data

CPU = Machine("cpu", "cpu", "cpu", 1, 2**30, 1e10, "")
CONFIG = from_config_dict(debug.get_config())
CONFIG = dataclasses.replace(
    CONFIG,
    data=dataclasses.replace(CONFIG.data, name="fake"),
    train=dataclasses.replace(CONFIG.train, steps_per_call=2, accumulate=1, class_weights="balanced"),
)


@pytest.fixture
def cpu(monkeypatch):
    """One of the devices that are here takes the place of one that isn't."""
    monkeypatch.setattr(programs, "devices_of", lambda machine: jax.devices()[:1])


def test_grey_images_take_a_third_of_the_memory(cpu):
    model = dataclasses.replace(CONFIG.model, channels=1, image_width=24)
    data = dataclasses.replace(CONFIG.data, name="cifar10", train="train[:90%]", validation="train[90%:]", test="test")
    run = programs.run_on(dataclasses.replace(CONFIG, data=data, model=model), CPU)
    assert run.data_bytes == 45_000 * (32 * 32 + 4)  # pixels as they are stored, and labels


@pytest.mark.parametrize("pipeline", ["resident", "mapped"])
def test_programs_are_those_of_a_run(cpu, pipeline):
    """Traced from shapes alone, the text is that of the programs that a run traces from its data and its state."""
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, pipeline=pipeline))
    machine = CPU
    if pipeline == "mapped":
        pytest.importorskip("tensorflow")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps_per_call=1))
        config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, crop_scale=(0.2, 1.0)))
        machine = dataclasses.replace(CPU, platform="gpu")  # which enlarges the crops in the step
    run = programs.run_on(config, machine)

    target = machine.target
    config, parts = with_data(config, sources.load(config), target)
    pieces = pieces_of(config, target, len(parts.train.labels), jax.devices()[:1])
    mesh = pieces.mesh
    state, data = first_state(config, pieces, parts), pipeline_of(config, parts, target, mesh)
    if pipeline == "mapped":
        data = data.batch_at(0, 0)
        assert (data["extent"] < 32).any()
    weights = weights_of("balanced", parts.train.labels, 10)
    traced = [
        traced_step(config, pieces.module, pieces.tx, pieces.schedule, pieces.plan, mesh, data, state, count, weights)
        for count in ((1, 2) if pipeline == "resident" else (1,))
    ]
    traced.append(traced_evaluation(pieces.module, config, mesh, state.params, parts.train.images.shape[1:]))
    ours = [program.trace() for program in run.programs]
    assert [one.jaxpr.pretty_print() for one in ours] == [one.jaxpr.pretty_print() for one in traced]

    assert [program.name for program in run.programs][0] == "step"
    assert run.state_bytes == sum(x.nbytes for x in jax.tree.leaves(state))
    assert run.param_bytes == sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert run.data_bytes == sum(np.asarray(x).nbytes for x in jax.tree.leaves(data))


def test_figures_are_kept_and_belong_to_the_program(cpu, tmp_path, monkeypatch):
    run = programs.run_on(CONFIG, CPU)
    evaluation = run.programs[-1]
    first = figures_of(evaluation, CPU, str(tmp_path))
    assert first.arguments > 0 and first.traffic > first.arguments / 2 and first.xla_flops > 0
    assert evaluation.flops / first.xla_flops == pytest.approx(1, abs=0.3)  # XLA counts norms and activations, too
    again = figures_of(evaluation, CPU, str(tmp_path))
    assert again == dataclasses.replace(first, remembered=True)  # the seconds, too: it was not compiled again
    with monkeypatch.context() as other:
        other.setenv("LIBTPU_INIT_ARGS", "--another")  # other flags may make another program
        assert not figures_of(evaluation, CPU, str(tmp_path)).remembered
    assert len(list(tmp_path.rglob("*.json"))) == 2
    other = dataclasses.replace(CONFIG, eval=dataclasses.replace(CONFIG.eval, batch_size=100))
    other_evaluation = programs.run_on(other, CPU).programs[-1]
    assert not figures_of(other_evaluation, CPU, str(tmp_path)).remembered


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("Ran out of memory in memory space hbm. Used 33.28G of 15.75G hbm. Exceeded hbm capacity by 17.53G.", 17.53),
        ("CompileTimeHbmOom: memory for HLO temporaries (19.24G) exceeds available HBM (15.75G)", 3.49),
        ("E1000: HLO temporaries (1.07T) exceeds available HBM (15.75G)", 1.07 * 1024 - 15.75),
    ],
)
def test_by_how_much_a_program_is_too_large_for_a_tpu(text, missing):
    """As its compiler says, in the words of two of its releases."""
    assert missing_of(text) / 2**30 == pytest.approx(missing)
    assert missing_of("INTERNAL: something else") is None


def test_what_xla_cannot_compile_is_one_message(cpu):
    def refused():
        raise NotImplementedError("Unsupported sequence length Q 65\nand more")

    program = dataclasses.replace(programs.run_on(CONFIG, CPU).programs[0], trace=refused)
    with pytest.raises(RunError, match=r"^cpu: XLA can't compile the step: Unsupported sequence length Q 65$"):
        figures_of(program, CPU)


def test_cifar_needs_no_image(cpu, monkeypatch):
    monkeypatch.setattr(sources, "load", lambda *_: pytest.fail("the data were asked for"))
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, name=name))
        run = programs.run_on(config, CPU, 64)
        assert run.config.model.num_classes == classes
        assert run.config.train.batch_size == 64 == run.programs[0].images
        assert run.data_bytes == 45_000 * (32 * 32 * 3 + 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=debug"], "error: --target is missing"),
        (["--target=h100"], "error: --config is missing: what to compile"),
        (["--config=debug", "--target=h1000"], "error: --target=h1000: not known; there are h100, "),
        (["--config=debug", "--target=h100", "--batch=0"], "error: --batch: a whole number above 0, or largest"),
        (
            ["--config=debug", "--target=h100", "--json=."],
            "error: --json=.: that is a folder",
        ),
        (["--config=debug", "--target=h100", "--workdir=x"], "error: --workdir doesn't belong to --mode=compile"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["vit-jax", "compile", *arguments]) == 2
    found = capsys.readouterr().err
    assert found.startswith(message) and found.count("\n") == 1


def test_what_compiles_for_a_target_must_be_installed(monkeypatch, capsys):
    monkeypatch.setattr("vit_jax.aot.topology.util.find_spec", lambda name: None)
    assert main(["vit-jax", "compile", "--config=debug", "--target=v5e-4"]) == 2
    found = capsys.readouterr().err
    assert f'-m pip install "jax[tpu]=={jax.__version__}"' in found and found.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("target", "module"), [("h100", "jax_cuda13_plugin"), ("v5e-4", "libtpu")])
def test_a_step_is_compiled_for_a_device_that_is_not_here(target, module, tmp_path):
    if util.find_spec(module) is None:
        pytest.skip(f"{module} isn't installed")
    command = ["compile", "--config=debug", f"--target={target}", f"--json={tmp_path}/found.json"]
    done = subprocess.run([sys.executable, "-m", "vit_jax.main", *command], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "all programs fit" in done.stdout and "evaluation" in done.stdout
    assert (tmp_path / "found.json").exists()
