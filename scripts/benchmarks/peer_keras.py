"""The same model and step in Keras, from its own layers. B batch, N tokens, D width."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from vit_jax.config import Config
from vit_jax.models.stems import grid_shape


@keras.saving.register_keras_serializable()
class Positions(layers.Layer):
    """Adds a position embedding (N, D), trained or not."""

    def __init__(self, learned: bool):
        super().__init__()
        self.learned = learned

    def build(self, shape: tuple) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", trainable=self.learned)

    def call(self, x):  # noqa: ANN001, ANN201 - a backend's own tensor
        return x + self.table


def _mlp(x, widths: list[int], rate: float, last_activation: bool):  # noqa: ANN001, ANN202
    for i, width in enumerate(widths):
        last = i == len(widths) - 1
        x = layers.Dense(width, activation="gelu" if last_activation or not last else None)(x)
        x = layers.Dropout(rate)(x)
    return x


def _model(config: Config) -> keras.Model:
    cfg = config.model
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16" if cfg.dtype == "bfloat16" else "float32")
    x = inputs = layers.Input((cfg.image_size, cfg.image_size, 3))
    if cfg.stem.kind == "conv":
        for width, stride in zip(cfg.stem.widths, cfg.stem.strides, strict=True):
            x = layers.Conv2D(width, cfg.stem.kernel_size, stride, "same", use_bias=False)(x)
            x = layers.LayerNormalization(epsilon=cfg.norm_eps)(x)
            x = layers.Activation("gelu")(x)
    x = layers.Conv2D(cfg.width, cfg.patch_size, cfg.patch_size)(x)
    x = layers.Reshape((math.prod(grid_shape(cfg)), cfg.width))(x)
    x = Positions(cfg.posemb == "learned")(x)
    for _ in range(cfg.depth):
        y = layers.LayerNormalization(epsilon=cfg.norm_eps)(x)
        y = layers.MultiHeadAttention(cfg.heads, cfg.head_dim, dropout=cfg.attention_dropout)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=cfg.norm_eps)(x)
        y = _mlp(y, [cfg.mlp_dim, cfg.width], cfg.mlp_dropout, cfg.mlp_output_activation)
        x = layers.Add()([x, y])
    x = layers.LayerNormalization(epsilon=cfg.norm_eps)(x)
    x = layers.Flatten()(x) if cfg.pool == "flatten" else layers.GlobalAveragePooling1D()(x)
    x = _mlp(layers.Dropout(cfg.head_dropout)(x), list(cfg.head_mlp), cfg.head_dropout, True)
    return keras.Model(inputs, layers.Dense(cfg.num_classes, dtype="float32")(x))


def _count(model: keras.Model) -> int:
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def training(config: Config, compiled: bool) -> tuple[Callable[[], float], int]:
    """A function that runs one step of training and returns its loss; the number of parameters.

    `compiled`: with jit_compile=True, else with Keras' default, "auto".
    """
    model, o = _model(config), config.optim
    model.compile(
        keras.optimizers.AdamW(o.learning_rate, o.weight_decay, o.b1, o.b2, o.eps, global_clipnorm=o.clip_norm),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.train.label_smoothing),
        jit_compile=True if compiled else "auto",
    )
    images, labels = map(keras.ops.convert_to_tensor, _batch(config))
    return (lambda: float(model.train_on_batch(images, labels))), _count(model)


def inference(config: Config, compiled: bool) -> tuple[Callable[[], float], int]:
    """A function that computes the logits of one batch."""
    model = _model(config)
    model.compile(jit_compile=True if compiled else "auto")
    images = keras.ops.convert_to_tensor(_batch(config)[0])
    return (lambda: float(model.predict_on_batch(images)[0, 0])), _count(model)


def _batch(config: Config) -> tuple[np.ndarray, np.ndarray]:
    size, classes = config.model.image_size, config.model.num_classes
    images = np.random.RandomState(0).randn(config.train.batch_size, size, size, 3).astype(np.float32)
    labels = np.eye(classes, dtype=np.float32)[np.random.RandomState(1).randint(classes, size=len(images))]
    return images, labels


def accelerator_bytes() -> None:
    """Not measured."""
