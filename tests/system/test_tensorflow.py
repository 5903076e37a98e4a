"""Where TensorFlow can't be had, the remedy is not to install it."""

import sys

import pytest

from vit_jax.system.tensorflow import import_tensorflow


@pytest.mark.parametrize("version", [(3, 13, 5), (3, 14, 0)])
def test_python_3_14_is_named_as_the_reason(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(ImportError) as told:
        import_tensorflow()
    assert ("VIT_JAX_PYTHON=" in str(told.value)) == (version >= (3, 14))
