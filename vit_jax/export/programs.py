"""Programs that compute a model's logits elsewhere. B batch, H/W pixels of the run's stored images, C classes.

A program takes uint8 images (B, H, W, channels), any number of them, and gives logits (B, C) float32: preprocessing and
parameters are part of it. Before it counts as written, the library that it is for loads it, and what it gives is
compared with the model.
"""

import dataclasses
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from jax.extend.mlir import serialize_portable_artifact

from vit_jax.config import Config, ModelConfig
from vit_jax.errors import RunError, UserError
from vit_jax.export import formats
from vit_jax.export.parity import require_same
from vit_jax.models import VisionTransformer
from vit_jax.models.backend import Compute
from vit_jax.runs.trained import Trained
from vit_jax.steps.step import eval_step
from vit_jax.system.tensorflow import import_tensorflow

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_STABLEHLO = "1.8.0"  # of December 2024: TensorFlow's XLA is older than JAX's

_COUNTS = (1, 3)  # batch sizes that are compared
_INLINE_BYTES = 2**30  # of parameters in an ONNX file: it can't have more than 2 GB, beside it they may have any size

# uint8 (B, H, W, channels) -> float32 (B, C), by the library that a program is for.
Loaded = Callable[[np.ndarray], np.ndarray]
Written = tuple[Loaded, str, list[str]]  # also name and version of that library, and how it loads the program


@dataclass(frozen=True)
class Program:
    """A model as a function of its parameters and images, the same on every platform."""

    params: Any  # numpy arrays
    image_shape: tuple[int, int, int]  # (H, W, channels)
    logits: Callable[[Any, jax.Array], jax.Array]  # params, uint8 (B, H, W, channels) -> (B, C) float32

    def images(self) -> jax.ShapeDtypeStruct:
        """What it takes, the number of images left open."""
        return jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), *self.image_shape), np.uint8)


def write_program(model: Trained, format: str, folder: Path) -> dict[str, Any]:
    """Writes a "jax", "onnx" or "savedmodel" program into an empty folder; gives what model.json is to say of it.

    Raises UserError where the library isn't installed, and RunError for a program that can't be made or gives other
    logits.
    """
    program = program_of(model.module.cfg, model.config, model.params, model.image_size)
    try:
        loaded, reader, usage = WRITERS[format](program, folder)
        largest, scale = difference(program, loaded)
    except OSError:
        raise
    except ImportError as error:
        raise UserError(
            f"{format} needs libraries that aren't installed ({error}): {formats.NEEDS[format][1]}; or take "
            f"{formats.instead(format, model.module.cfg)}, which can be written here"
        ) from error
    except Exception as error:  # whatever other projects' libraries raise
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"this model can't be written as {format}: {type(error).__name__}: {reason}. Take "
            f"{formats.instead(format, model.module.cfg)}"
        ) from error
    require_same(f"the {format} program", largest, scale)
    height, width, channels = program.image_shape
    return {
        "input": {"name": "images", "shape": ["batch", height, width, channels], "dtype": "uint8"},
        "output": {"name": "logits", "shape": ["batch", len(model.classes)], "dtype": "float32"},
        "largest_difference": largest,
        "largest_logit": scale,
        "loaded_by": [reader],
        "usage": usage,
    }


def program_of(cfg: ModelConfig, config: Config, params: Any, image_size: tuple[int, int]) -> Program:
    """The model in float32 throughout, with attention that every platform can compute. `image_size`: H, W as stored."""
    module = VisionTransformer(dataclasses.replace(cfg, attention="xla", remat=False, scan=False), Compute())

    def logits(params: Any, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):  # accelerators would round the factors
            return eval_step(params, images, module=module, config=config)

    return Program(jax.tree.map(np.asarray, params), (*image_size, cfg.channels), logits)


def difference(program: Program, loaded: Loaded) -> tuple[float, float]:
    """The largest difference of the logits of random images, and the largest logit."""
    images = np.random.RandomState(0).randint(256, size=(sum(_COUNTS), *program.image_shape)).astype(np.uint8)
    expected = np.asarray(jax.jit(program.logits)(program.params, images))  # (B, C)
    parts = np.split(images, np.cumsum(_COUNTS)[:-1])
    found = np.concatenate([np.asarray(loaded(part)) for part in parts])
    return float(np.abs(found - expected).max()), float(np.abs(expected).max())


def _exported(function: Any, *shapes: Any) -> jax.export.Exported:
    """The program of a jitted function; of the files of its code it has the names alone, not where they lie here."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[name]
    jax.config.update(name, r"^.*/")
    try:
        return jax.export.export(function, platforms=_PLATFORMS)(*shapes)
    finally:
        jax.config.update(name, before)


def _write_jax(program: Program, folder: Path) -> Written:
    """model.stablehlo: jax.export's form, which later versions of JAX read, on any of _PLATFORMS."""
    function, file = jax.jit(partial(program.logits, program.params)), folder / "model.stablehlo"
    file.write_bytes(_exported(function, program.images()).serialize())
    usage = [
        "from jax import export",
        'model = export.deserialize(bytearray(open("model.stablehlo", "rb").read()))',
        "logits = model.call(images)",
    ]
    return jax.export.deserialize(bytearray(file.read_bytes())).call, f"jax {jax.__version__}", usage


def _write_onnx(program: Program, folder: Path) -> Written:
    """model.onnx and, where the parameters are large, model.onnx.data beside it."""
    import onnx
    import onnxruntime

    from vit_jax.export.onnx_rules import convert

    traced = jax.make_jaxpr(partial(program.logits, program.params))(program.images())
    size = sum(x.nbytes for x in jax.tree.leaves(program.params))
    onnx.save_model(
        convert(traced, "images", "logits"),
        folder / "model.onnx",
        save_as_external_data=size > _INLINE_BYTES,
        location="model.onnx.data",
    )
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    usage = [
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx")',
        'logits = session.run(["logits"], {"images": images})[0]',
    ]
    reader = f"onnxruntime {onnxruntime.__version__}"
    return lambda images: session.run(["logits"], {"images": images})[0], reader, usage


def _write_savedmodel(program: Program, folder: Path) -> Written:
    """A SavedModel with the signature serving_default, parameters as variables: a graph can't have more than 2 GB."""
    tf = import_tensorflow()
    from tensorflow.compiler.tf2xla.python import xla

    exported = _exported(jax.jit(program.logits), program.params, program.images())
    params = [tf.Variable(x, trainable=False) for x in jax.tree.leaves(program.params)]
    call = partial(
        xla.call_module,
        version=exported.calling_convention_version,
        module=_for_tensorflow(exported.mlir_module()),
        Tout=[tf.float32],
        Sout=[(None, exported.out_avals[0].shape[1])],
        platforms=[platform.upper() for platform in exported.platforms],
    )

    def serve(images: Any) -> dict[str, Any]:
        arguments = [*params, images]
        return {"logits": call([arguments[i] for i in exported.module_kept_var_idx])[0]}

    module, spec = tf.Module(), tf.TensorSpec((None, *program.image_shape), tf.uint8, name="images")
    module.params, module.serve = params, tf.function(serve, input_signature=[spec], autograph=False)
    tf.get_logger().setLevel(logging.ERROR)  # it says where assets are, of which there are none
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    loaded = tf.saved_model.load(folder).signatures["serving_default"]
    usage = [
        "import tensorflow as tf",
        'model = tf.saved_model.load(".").signatures["serving_default"]',
        'logits = model(images=tf.constant(images))["logits"].numpy()',
    ]
    reader = f"tensorflow {tf.__version__}"
    return lambda images: loaded(images=tf.constant(images))["logits"].numpy(), reader, usage


def _for_tensorflow(module: str) -> bytes:
    """A StableHLO module in a form that TensorFlow from 2.20 on takes.

    JAX writes some functions (erf) as composites, which TensorFlow doesn't take where the number of images is open.
    They are calls with another name for it.
    """
    composite = r'stablehlo\.composite "[\w.]+" (\S+) \{decomposition = (@[\w.]+), version = \d+ : i32\}'
    return serialize_portable_artifact(re.sub(composite, r"func.call \2(\1)", module), _STABLEHLO)


WRITERS: dict[str, Callable[[Program, Path], Written]] = {
    "jax": _write_jax,
    "onnx": _write_onnx,
    "savedmodel": _write_savedmodel,
}
