"""A state that devices share: the same training as with a whole one, in less memory. B batch, N tokens."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vit_jax import models
from vit_jax.config import AugmentConfig, CheckpointConfig, Config, ModelConfig, OptimConfig, TrainConfig
from vit_jax.data.dataset import Examples
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.errors import UserError
from vit_jax.models import encoder
from vit_jax.models.backend import target_at_hand
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import to_dict
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.partition import mesh_for, sharers, split_axes
from vit_jax.steps.phases import traced_step
from vit_jax.steps.plan import Plan
from vit_jax.steps.schedules import learning_rate
from vit_jax.system.jobs import Peers
from vit_jax.system.sharding import make_mesh, on_host, replicated
from vit_jax.training import machine

CONFIG = Config(
    augment=AugmentConfig(mean=(0.5,) * 3, std=(0.25,) * 3, flip=True),
    model=ModelConfig(num_classes=5, image_size=8, patch_size=4, width=64, depth=2, heads=2, mlp_dim=128),
    optim=OptimConfig(learning_rate=1e-3, eps=1e-3, clip_norm=1.0),
    train=TrainConfig(batch_size=16, mesh="data=2,fsdp=4"),
)
MODULE = models.create(CONFIG.model)
IMAGES = np.random.RandomState(0).randint(256, size=(50, 8, 8, 3)).astype(np.uint8)
LABELS = np.random.RandomState(1).randint(5, size=50).astype(np.int32)
DROPOUTS = {"mlp_dropout": 0.2, "attention_dropout": 0.2, "token_dropout": 0.2, "head_dropout": 0.2, "drop_path": 0.2}


def pieces(config):
    """Mesh, the first state, and a function from pixels a side to the step's traced program."""
    mesh, module = mesh_for(config.train), models.create(config.model)
    shapes = states.abstract_params(module)
    split = split_axes(config.train, shapes, mesh.shape.get("fsdp", 1))
    tx = optim.optimizer(config.optim, shapes, module.dtype, optim.sharing_mesh(config, target_at_hand(), mesh))
    state = states.create(module, tx, 0, mesh, config.train.ema is not None, split=split)
    data = DevicePipeline.of(Examples(IMAGES, LABELS), config.train.batch_size, replicated(mesh))
    schedule = learning_rate(config.optim, 40, 2)

    def traced(size):
        sized, count = module.clone(input_size=size), config.train.steps_per_call
        return traced_step(config, sized, tx, schedule, Plan(40, None), mesh, data, state, count, split=split)

    return state, data, traced


def trained(config, sizes=(8,), steps=20):
    """The state after some steps at each size, and the losses."""
    state, data, traced = pieces(config)
    losses = []
    for size in sizes:
        step = traced(size).lower().compile()
        for _ in range(steps // config.train.steps_per_call):
            state, metrics = step(state, data, None)
            losses += np.atleast_1d(metrics["loss"]).tolist()
    return state, losses


def changed(**groups):
    return dataclasses.replace(
        CONFIG, **{name: dataclasses.replace(getattr(CONFIG, name), **keys) for name, keys in groups.items()}
    )


CASES = {
    "adamw, micro-batches, average, dropout, recomputed": changed(
        model={**DROPOUTS, "remat": True}, train={"accumulate": 2, "ema": 0.9}
    ),
    "muon, micro-batches, a loop over blocks": changed(
        model={**DROPOUTS, "scan": True}, optim={"name": "muon"}, train={"accumulate": 2}
    ),
    # Without biases: those of keys have no gradient but rounding, of which Lion takes the sign.
    "lion, a loop, recomputed, ten steps a call": changed(
        model={"scan": True, "remat": True, "qkv_bias": False},
        optim={"name": "lion", "learning_rate": 1e-4},
        train={"steps_per_call": 10},
    ),
    "sgd, class token, every parameter by its rule": changed(
        model={"pool": "token"},
        optim={"name": "sgd"},
        train={"split_rules": ((r".*/mlp/dense_0/kernel", "1"), (r".*/norm_\d/.*", "0"), (".*", "auto"))},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sharing_the_state_changes_nothing(name):
    config, sizes = CASES[name], (8, 12) if "loop over" in name else (8,)
    whole = dataclasses.replace(config, train=dataclasses.replace(config.train, mesh=None))
    (alone, losses), (shared, same) = trained(whole, sizes), trained(config, sizes)
    assert len(losses) == 20 * len(sizes)
    np.testing.assert_allclose(same, losses, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(on_host(a), on_host(b), atol=1e-5), shared, alone)
    loop, rule = config.model.scan, "every parameter" in name
    block = shared.params["blocks" if loop else "block_01"]
    kernel = block["mlp"]["dense_0"]["kernel"]  # (64, 128), or (2, 64, 128) of the loop's blocks
    assert kernel.sharding.spec == (P(None, None, "fsdp") if loop else P(None, "fsdp"))
    assert ("fsdp" in block["norm_0"]["scale"].sharding.spec) == rule
    owned = [x for x in jax.tree.leaves(shared.opt_state) if x.shape == kernel.shape and x.sharding == kernel.sharding]
    assert len(owned) >= (1 if loop else 2)  # the moments lie as the kernels do


@pytest.mark.slow
def test_the_loop_computes_what_the_blocks_written_out_do():
    looped, losses = trained(changed(model={"scan": True}), steps=3)
    unrolled, same = trained(CONFIG, steps=3)
    np.testing.assert_allclose(same, losses, atol=1e-6)
    one_by_one = encoder.unstacked(jax.tree.map(on_host, looped.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, on_host(b), atol=1e-6), one_by_one, unrolled.params)


@pytest.mark.slow
def test_a_step_gathers_parameters_and_scatters_their_gradients_and_keeps_a_share():
    figures = {}
    for mesh in ("data=8", "data=4,fsdp=2", "fsdp=8"):
        config = changed(train={"mesh": mesh})
        state, data, traced = pieces(config)
        compiled = traced(8).lower().compile()
        memory, text = compiled.memory_analysis(), compiled.as_text()
        figures[mesh] = memory.argument_size_in_bytes - data.images.nbytes - data.labels.nbytes
        split = [x for x in jax.tree.leaves(state.params) if not x.sharding.is_fully_replicated]
        assert len(split) == (0 if mesh == "data=8" else 8)  # four kernels of each block
        for kind in ("all-gather", "reduce-scatter"):
            assert len(re.findall(rf" {kind}(-start)?\(", text)) == len(split)
    large = sum(3 * x.nbytes for x in split)  # and two moments of each
    for mesh, sharing in (("data=4,fsdp=2", 2), ("fsdp=8", 8)):
        assert figures["data=8"] - figures[mesh] == pytest.approx(large * (1 - 1 / sharing), rel=0.01)
    assert figures["fsdp=8"] < 0.2 * figures["data=8"]


def test_a_checkpoint_goes_onto_any_mesh(tmp_path):
    saved, _, _ = pieces(CONFIG)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(saved, {}, None)
    for mesh in (None, "fsdp=8", "data=4,fsdp=2"):
        config = changed(train={"mesh": mesh})
        target = jax.tree.map(lambda x: jax.device_put(jnp.zeros_like(x), x.sharding), pieces(config)[0])
        found = Checkpoints(tmp_path).restore(0, target, mesh_for(config.train))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(on_host(a), on_host(b)), found, saved)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, found, target)))
    alone = Checkpoints(tmp_path).restore(0, {"params": states.abstract_params(MODULE)}, make_mesh(jax.devices()[:1]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, on_host(b)), alone["params"], saved.params)


@pytest.mark.parametrize("mesh", [None, pytest.param("data=2,fsdp=4", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_its_blocks_in_a_loop_or_written_out(tmp_path, mesh):
    def first(scan):
        frozen = ((r"block_\d+/mlp/.*", 0.0), (".*", 1.0))  # of which the optimizer has no state
        optim = {"name": "muon", "rate_rules": frozen}
        return pieces(changed(model={"scan": scan}, train={"mesh": mesh, "ema": 0.9}, optim=optim))[0]

    other = {True: encoder.unstacked, False: encoder.stacked}
    for scan in (True, False):
        saved, target = first(scan), first(not scan)
        assert encoder.is_stacked(saved) == scan
        blank = jax.tree.map(lambda x: jax.device_put(jnp.zeros_like(x), x.sharding), target)
        (folder := tmp_path / str(scan)).mkdir()
        with Checkpoints(folder, CheckpointConfig()) as checkpoints:
            checkpoints.save(saved, {}, None)
        found = Checkpoints(folder).restore(0, blank, mesh_for(TrainConfig(mesh=mesh)))
        expected = other[scan](jax.tree.map(on_host, saved))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(on_host(a), b), found, expected)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a.sharding == b.sharding, found, target)))


@pytest.mark.slow
def test_a_step_of_looped_blocks_is_a_program_that_depth_does_not_lengthen():
    lines = {
        scan: [
            len(pieces(changed(model={"scan": scan, "depth": depth}))[2](8).lower().as_text().splitlines())
            for depth in (3, 5)
        ]
        for scan in (True, False)
    }
    assert lines[True][0] == lines[True][1] < lines[False][0] < lines[False][1]


def test_rules_that_take_blocks_apart_are_refused_with_a_loop():
    rates = ((r"block_00/.*", 0.5), (".*", 1.0))
    optim.optimizer(dataclasses.replace(CONFIG.optim, rate_rules=rates), states.abstract_params(MODULE), jnp.float32)
    looped = states.abstract_params(models.create(changed(model={"scan": True}).model))
    with pytest.raises(UserError, match=r"rate_rules: 0.5 for block_00/.*, 1.0 for block_01/.*model.scan=True"):
        optim.optimizer(dataclasses.replace(CONFIG.optim, rate_rules=rates), looped, jnp.float32)


def test_a_mesh_is_of_the_devices_that_train_not_of_those_that_evaluate(monkeypatch):
    config, seen = changed(train={"mesh": "data=64,fsdp=8"}), []
    monkeypatch.setattr(machine, "use_cpu_cores", lambda config, processes: seen.append(config.train.mesh))
    monkeypatch.setattr(machine, "join", lambda peers: None)
    machine.ready(config, None)
    machine.ready(config, None, trained=True)
    machine.ready(config, None, peers=Peers("auto", None, None, 60))  # how many processes share the devices?
    assert seen == ["data=64,fsdp=8", None, None]


def test_devices_divide_the_micro_batches_that_a_run_has_chosen(monkeypatch, tmp_path):
    """On a machine with more cores than the one where it began."""
    config, seen = changed(train={"accumulate": None}), []
    monkeypatch.setattr(machine, "use_cpu_cores", lambda config, processes: seen.append(config.train.accumulate))
    machine.ready(config, str(tmp_path / "run"))
    for folder in (tmp_path / "run", tmp_path / "seeds" / f"seed_{config.seed}"):
        folder.mkdir(parents=True)
        RunFolder(folder).write("config.json", to_dict(changed(train={"accumulate": 16})))
        machine.ready(config, str(tmp_path / folder.relative_to(tmp_path).parts[0]))
    assert seen == [None, 16, 16]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, 1), ("data=8", 1), ("fsdp=8", 8), ("data=4,fsdp=2", 2), ("fsdp=4,data=2", 4), ("data=2", 4)],
)
def test_a_mesh_by_its_sizes(text, expected):
    assert sharers(text, 8) == expected


@pytest.mark.parametrize("text", ["", "4", "data=0", "fsdp=3", "data=2,fsdp=2", "data=2,data=4", "model=2", "data=16"])
def test_a_mesh_that_cannot_be_is_refused(text):
    with pytest.raises(UserError, match=r"config\.train\.mesh="):
        sharers(text, 8)


def test_an_axis_that_does_not_divide_the_devices_says_so():
    for text, devices, there in (("fsdp=3", 8, "are 8"), ("data=8", 2, "are 2"), ("fsdp=8", 1, "is one")):
        with pytest.raises(
            UserError, match=f"mesh='{text}' must divide the number of devices, of which there {there}$"
        ):
            sharers(text, devices)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((".*", "first"),), "'first' is neither"),
        (((".*bias", "3"), (".*", "auto")), "has no axis 3 that 4 devices divide"),
        ((("head/.*", "auto"),), r"no rule matches.*like \('\.\*', 'auto'\)"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules, message):
    params = states.abstract_params(MODULE)
    with pytest.raises(UserError, match=message):
        split_axes(TrainConfig(split_rules=rules), params, 4)
