"""The models that have a name, with what each takes at an image size, and the configs that are ready-made."""

import ast
import dataclasses
from pathlib import Path

import jax

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


def list_models(image_size: int, num_classes: int) -> None:
    """Says what each preset has with each usual patch size, and how to use it; then the configs of ./configs.

    Raises UserError for an image size that none of the patch sizes divides.
    """
    # Nothing is computed. An accelerator would take seconds to start, and most of its memory from a run that uses it.
    jax.config.update("jax_platforms", "cpu")
    patch_sizes = [patch for patch in PATCH_SIZES if image_size % patch == 0]
    if not patch_sizes:
        raise UserError(
            f"--image_size={image_size}: none of the usual patch sizes {', '.join(map(str, PATCH_SIZES))} divides it; "
            "choose another, like 32 or 224, or a patch size of your own with --config.model.patch_size"
        )
    rows = [_row(f"{name}/{patch}", image_size, num_classes) for name in PRESETS for patch in patch_sizes]
    say_table(f"Models for images of {image_size} x {image_size} pixels and {num_classes} classes", rows, _HEADER)
    say("GFLOPs are of an image's forward pass. Other keys are at their defaults.")
    example = f"S/{next((p for p in patch_sizes if (image_size // p) ** 2 <= _USUAL_TOKENS), patch_sizes[-1])}"
    size = "" if image_size == ModelConfig().image_size else f" --config.model.image_size={image_size}"
    say(f"To train one: vit-jax --config=configs/base.py --config.model.variant={example}{size} --workdir=runs/mine")
    if configs := ready_made(Path("configs")):
        say("\nReady-made configs, for --config:")
        longest = max(len(name) for name, _ in configs)
        for name, title in configs:
            say(f"  {name:{longest}}  {title}")


def parameters(model: ModelConfig) -> int:
    """How many parameters a resolved model has, from their shapes; its blocks are alike, so that one is looked at."""
    shapes = state.abstract_params(VisionTransformer(dataclasses.replace(model, depth=1), Compute()))
    return state.count(shapes) + (model.depth - 1) * state.count(shapes["block_00"])


def ready_made(folder: Path) -> list[tuple[str, str]]:
    """Name and first line of each config in a folder. They are programs: they are read, not run."""
    found = []
    for file in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            found.append((str(file), "(can't be read)"))
            continue
        if any(isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in tree.body):
            found.append((str(file), (ast.get_docstring(tree) or "").split("\n")[0]))
    return found


def _row(variant: str, image_size: int, num_classes: int) -> tuple[str, ...]:
    cfg = resolve(ModelConfig(variant=variant, image_size=image_size, num_classes=num_classes))
    tokens = (image_size // cfg.patch_size) ** 2
    sizes = map(str, (cfg.width, cfg.depth, cfg.heads, cfg.mlp_dim, tokens))
    return variant, *sizes, f"{parameters(cfg):,}", f"{flops.forward(cfg) / 1e9:,.2f}"
