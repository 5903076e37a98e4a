"""Vision Transformers from scratch on small images, in JAX and Flax.

    import vit_jax

    results = vit_jax.fit("quickstart", "runs/quickstart", overrides={"optim.learning_rate": 1e-3})
    vit_jax.evaluate("runs/quickstart", checkpoint="best")
    vit_jax.Predictor("runs/quickstart")(["cat.png"])
    module, params = vit_jax.load("B_16.npz")
    setup = vit_jax.setup("quickstart")  # the pieces, for a loop of one's own

Importing this costs nothing: each name is loaded, and JAX with it, when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit_jax.api import Predictor, Results, RunError, Setup, UserError, evaluate, fit, load, setup

__version__ = "0.2.0"
__all__ = ["Predictor", "Results", "RunError", "Setup", "UserError", "evaluate", "fit", "load", "setup"]

_ROOMS = ("config", "data", "errors", "evaluation", "export", "models", "pretrained", "runs", "steps", "training")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return vars(importlib.import_module("vit_jax.api"))[name]
    if name in _ROOMS:
        return importlib.import_module(f"vit_jax.{name}")
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
