"""TensorFlow, imported only where it is used, and kept off the accelerator."""

import os
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """The tensorflow module; it neither takes accelerator memory nor prints its start-up notes.

    Raises ImportError where it isn't installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow only reads and writes files here
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
