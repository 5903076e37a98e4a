"""One look at what commonly goes wrong: versions, devices, settings, memory, disks, data. Nothing is changed by it.

A check gives findings about what it is handed, so that any machine can be described to it. None imports JAX or another
library that may be broken here: probe.py does so in a process of its own.
"""

from vit_jax.cli.doctor.report import examine

__all__ = ["examine"]
