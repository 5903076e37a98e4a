"""What has a name: the configs that are ready-made, and the models with what each takes at an image size."""

import ast
import dataclasses
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import jax

from vit_jax.cli.config_files import shipped
from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer, flops, resolve
from vit_jax.models.backend import Compute
from vit_jax.models.presets import PRESETS
from vit_jax.steps import state
from vit_jax.system.progress import say, say_table

PATCH_SIZES = (2, 4, 8, 14, 16, 32)
_USUAL_TOKENS = 196  # at most, of the model that is taken as an example: 224 pixels in patches of 16
_HEADER = ("model", "width", "depth", "heads", "mlp_dim", "tokens", "parameters", "GFLOPs")


class ReadyMade(NamedTuple):
    """A config as its docstring tells of it."""

    name: str
    what: str  # the first line
    expected: str = ""  # of the line "Expected: ..."
    budget: str = ""  # likewise


def say_all(image_size: int, num_classes: int) -> None:
    """Says the configs that come with vit_jax, then what each preset has with each usual patch size.

    Raises UserError for an image size that none of the patch sizes divides.
    """
    patch_sizes = [patch for patch in PATCH_SIZES if image_size % patch == 0]
    if not patch_sizes:
        raise UserError(
            f"--image_size={image_size}: none of the usual patch sizes {', '.join(map(str, PATCH_SIZES))} divides it; "
            "choose another, like 32 or 224, or a patch size of your own with --config.model.patch_size"
        )
    say("Configs, for --config:\n")
    configs = ready_made(shipped())
    width = max(len(config.name) for config in configs)
    for config in configs:
        said = [("", config.what), ("expected: ", config.expected), ("budget: ", config.budget)]
        lines = [line for label, text in said if text for line in textwrap.wrap(label + text, 110 - width)]
        say("\n".join(f"  {name:{width}}  {line}" for name, line in zip([config.name, *[""] * 9], lines, strict=False)))
    # Nothing is computed. An accelerator would take seconds to start, and most of its memory from a run that uses it.
    jax.config.update("jax_platforms", "cpu")
    rows = [_row(f"{name}/{patch}", image_size, num_classes) for name in PRESETS for patch in patch_sizes]
    say_table(f"\nModels for images of {image_size} x {image_size} pixels and {num_classes} classes", rows, _HEADER)
    say("GFLOPs are of an image's forward pass. Other keys are at their defaults.")
    example = f"S/{next((p for p in patch_sizes if (image_size // p) ** 2 <= _USUAL_TOKENS), patch_sizes[-1])}"
    size = "" if image_size == ModelConfig().image_size else f" --config.model.image_size={image_size}"
    say(f"To train one: vit-jax --config=base --config.model.variant={example}{size} --workdir=runs/mine")


def parameters(model: ModelConfig) -> int:
    """How many parameters a resolved model has, from their shapes; its blocks are alike, so that one is looked at."""
    shapes = state.abstract_params(VisionTransformer(dataclasses.replace(model, depth=1, scan=False), Compute()))
    return state.count(shapes) + (model.depth - 1) * state.count(shapes["block_00"])


def ready_made(folder: Path) -> list[ReadyMade]:
    """What the configs in a folder say of themselves. They are programs: they are read, not run."""
    found = []
    for file in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            found.append(ReadyMade(file.stem, "(can't be read)"))
            continue
        if any(isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body):
            text = ast.get_docstring(tree) or ""
            told = dict(re.findall(r"^(Expected|Budget): (.*)$", text, re.M))
            what = text.split("\n")[0]
            found.append(ReadyMade(file.stem, what, told.get("Expected", ""), told.get("Budget", "")))
    return found


def _row(variant: str, image_size: int, num_classes: int) -> tuple[str, ...]:
    cfg = resolve(ModelConfig(variant=variant, image_size=image_size, num_classes=num_classes))
    tokens = (image_size // cfg.patch_size) ** 2
    sizes = map(str, (cfg.width, cfg.depth, cfg.heads, cfg.mlp_dim, tokens))
    return variant, *sizes, f"{parameters(cfg):,}", f"{flops.forward(cfg) / 1e9:,.2f}"
