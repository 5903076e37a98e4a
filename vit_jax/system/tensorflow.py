"""TensorFlow, imported only where it is used, and kept off the accelerator."""

import importlib.util
import os
import sys
from types import ModuleType

# What TensorFlow and what it imports set in the environment, the first two with our values; JAX sets the TPU's, too.
_VARIABLES = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # no notes at the start
    "TF_ENABLE_ONEDNN_OPTS": "0",  # TensorFlow only reads and writes files here
    "TF2_BEHAVIOR": "1",
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "1",
    "TPU_ML_PLATFORM": "JAX",
    "TPU_ML_PLATFORM_VERSION": "",
    "HDF5_PLUGIN_PATH": "disable",
    "KMP_DUPLICATE_LIB_OK": "True",
    "KMP_INIT_AT_FORK": "FALSE",
}


def settle_environment() -> None:
    """Sets, where they are absent, the variables that TensorFlow's import sets; before JAX starts its threads.

    The import may come later, in a thread beside a run. A new variable moves the environment in memory (glibc before
    2.41), and a thread of XLA's that reads it at that moment ends the process; one that is there is only overwritten.
    """
    if importlib.util.find_spec("tensorflow") is None:
        return
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


def import_tensorflow() -> ModuleType:
    """The tensorflow module; it neither takes accelerator memory nor prints its start-up notes.

    Raises ImportError where it isn't installed.
    """
    settle_environment()
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        if error.name != "tensorflow" or sys.version_info < (3, 14):
            raise
        found = "it has no wheel for Python 3.14; VIT_JAX_PYTHON=/path/to/python3.13 ./scripts/setup.sh takes another"
        raise ModuleNotFoundError(found, name="tensorflow") from error

    tf.config.set_visible_devices([], "GPU")
    return tf
