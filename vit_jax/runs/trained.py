"""A trained model as its run's folder describes it: what prediction, export and evaluation begin with."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from vit_jax.config import Config, ModelConfig
from vit_jax.data.view import View, crop_pct_of, interpolation_of
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer, create
from vit_jax.models.backend import Target, target_at_hand
from vit_jax.models.checks import one_of
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.steps import lora
from vit_jax.steps import state as states
from vit_jax.system.sharding import make_mesh

# What config.eval.params names, as it is called in a state.
PARAMS = {"raw": "params", "ema": "ema"}


def check_params(config: Config) -> None:
    """Raises UserError where the parameters that are to be tested, config.eval.params, aren't kept."""
    one_of("config.eval.params", config.eval.params, tuple(PARAMS))
    if config.eval.params == "ema" and config.train.ema is None:
        raise UserError(
            'config.eval.params="ema" needs a run with config.train.ema, a decay like 0.999: else there is no average'
        )


# Sides of the images of data sets that runs of version 0.1.0 don't tell.
_STORED_SIZES = {"cifar10": 32, "cifar100": 32, "cifar10_batches": 32, "digits": 32}


@dataclass(frozen=True)
class Trained:
    """A module with the parameters of one checkpoint, and how images come to it."""

    run: RunFolder
    config: Config
    module: VisionTransformer
    params: Any
    classes: tuple[str, ...]
    image_size: tuple[int, int]  # height and width of the uint8 images that `step.eval_step` takes
    step: int
    crop_pct: float = 1.0  # share of an image's shorter side that an evaluation takes (data/view.py)

    @property
    def view(self) -> View:
        """How pictures become such images."""
        return View(self.image_size, self.config.model.channels, self.crop_pct, interpolation_of(self.config.data))


def load(workdir: str, name: str | None = None) -> Trained:
    """The checkpoint "best", "latest" or a step of the run in `workdir`; by default the one that its config selects.

    Raises UserError for a run or checkpoint that can't be used.
    """
    run = RunFolder(workdir)
    config = single(run)
    with Checkpoints(run.path) as checkpoints:
        step = checkpoints.resolve(name or name_of(config))
        target = target_at_hand()
        # Whoever looks into a model finds its blocks one by one, also where it was trained in a loop over them.
        model = dataclasses.replace(usable_on(target, config.model), scan=False)
        module, place = create(model, target), PARAMS[config.eval.params]
        shapes = states.abstract_params(module, config.optim.lora_rank)
        params = lora.merged(checkpoints.restore(step, {place: shapes}, make_mesh())[place])
    data = run.read("data.json")
    if not isinstance(data.get("classes"), list) or len(data["classes"]) != module.cfg.num_classes:
        raise UserError(
            f"{run.path}/data.json doesn't name the model's {module.cfg.num_classes} classes; bring it back"
        )
    side = _STORED_SIZES.get(config.data.name, config.data.image_size or config.model.image_size)
    size = tuple(data.get("image_size", (side, side)))
    crop_pct = data.get("crop_pct", crop_pct_of(config.data))
    return Trained(run, config, module, params, tuple(data["classes"]), size, step, crop_pct)


def single(run: RunFolder) -> Config:
    """The config of a run of one seed; raises UserError for a folder of several."""
    config = run.config()
    if config.seeds > 1:
        raise UserError(f"{run.path} holds runs of several seeds; name one of them: --workdir={run.path}/seed_N")
    return config


def name_of(config: Config) -> str:
    """The checkpoint that the config selects for the test: "best" or "latest"."""
    return {"best": "best", "last": "latest"}[config.eval.select]


def usable_on(target: Target, model: ModelConfig) -> ModelConfig:
    """The same model where a run's own way of computing attention can't be had: another is equal up to rounding."""
    if model.attention == "cudnn" and target.platform != "gpu":
        return dataclasses.replace(model, attention="auto")
    return model
