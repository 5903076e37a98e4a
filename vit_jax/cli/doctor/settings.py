"""Environment variables that change results or speed, and those that contradict each other."""

from collections import Counter
from collections.abc import Mapping

from vit_jax.cli.doctor.finding import Finding

_ON, _OFF = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")

# Name, the values that have an effect (None: any), and which.
_VARIABLES = (
    ("JAX_DISABLE_JIT", _ON, "nothing is compiled: steps take many times as long"),
    ("JAX_DEBUG_NANS", _ON, "every result is searched for NaN: slower"),
    ("JAX_DEBUG_INFS", _ON, "every result is searched for infinities: slower"),
    ("JAX_ENABLE_CHECKS", _ON, "JAX checks itself: slower"),
    ("JAX_CHECK_TRACER_LEAKS", _ON, "JAX checks what it traces: slower starts"),
    ("JAX_ENABLE_X64", _ON, "64-bit numbers where 32 are meant: slower, and other results"),
    ("JAX_DEFAULT_MATMUL_PRECISION", None, "float32 matmuls of another precision: other results, another speed"),
    ("JAX_NUMPY_DTYPE_PROMOTION", ("strict",), "dtypes that differ are refused: a run may end in an error"),
    ("JAX_NUMPY_RANK_PROMOTION", ("raise",), "shapes that differ are refused: a run may end in an error"),
    ("JAX_DEFAULT_PRNG_IMPL", None, "other random numbers: other results"),
    ("JAX_RANDOM_SEED_OFFSET", None, "other random numbers: other results"),
    ("JAX_THREEFRY_PARTITIONABLE", _OFF, "other random numbers: other results"),
    ("JAX_ENABLE_COMPILATION_CACHE", _OFF, "every start compiles anew"),
    ("JAX_DUMP_IR_TO", None, "each compiled program is written to disk"),
    ("XLA_PYTHON_CLIENT_ALLOCATOR", ("platform",), "memory is asked of the GPU's driver each time: slower"),
    ("NVIDIA_TF32_OVERRIDE", None, "float32 matmuls of another precision: other results, another speed"),
)
_XLA_FLAGS = (
    ("xla_cpu_enable_fast_math", _ON, "float operations regrouped, NaN left out: other results"),
    ("xla_gpu_deterministic_ops", _ON, "slower on a GPU; see config.train.deterministic"),
    ("xla_gpu_exclude_nondeterministic_ops", _ON, "slower on a GPU; see config.train.deterministic"),
    ("xla_backend_optimization_level", ("0", "1"), "slower"),
    ("xla_llvm_disable_expensive_passes", _ON, "slower on a CPU"),
    ("xla_cpu_multi_thread_eigen", _OFF, "a matmul on a CPU uses one core"),
    ("xla_disable_hlo_passes", None, "other code: other results by rounding, another speed"),
    ("xla_dump_to", None, "each compiled program is written to disk"),
)
_DEVICE_COUNT = "xla_force_host_platform_device_count"


def settings(env: Mapping[str, str], cores: int) -> list[Finding]:
    """A warning for each variable and flag with an effect; the others of JAX and XLA together."""
    flags = [token.lstrip("-").partition("=") for token in env.get("XLA_FLAGS", "").split() if token.startswith("-")]
    given = {name: value if equals else "true" for name, equals, value in flags}
    findings = [
        Finding("warning", name, f"{env[name]}: {effect}", f"unset {name}, unless you want that")
        for name, values, effect in _VARIABLES
        if env.get(name) and (values is None or env[name].lower() in values)
    ]
    findings += [
        Finding("warning", "XLA_FLAGS", f"--{name}={given[name]}: {effect}", "take it out, unless you want that")
        for name, values, effect in _XLA_FLAGS
        if name in given and (values is None or given[name].lower() in values)
    ]
    for name, count in Counter(name for name, _, _ in flags).items():
        if count > 1:
            found = f"--{name} is given {count} times; the last one, {given[name]}, counts"
            findings.append(Finding("warning", "XLA_FLAGS", found, "leave one of them"))
    findings += _device_counts(env.get("JAX_NUM_CPU_DEVICES"), given.get(_DEVICE_COUNT), cores)
    told = {finding.what for finding in findings}
    others = [f"{name}={env[name]}" for name in sorted(env) if name.startswith(("JAX_", "XLA_")) and name not in told]
    if others or not findings:
        findings.append(Finding("ok", "settings", ", ".join(others) or "no JAX_... or XLA_... variable is set"))
    return findings


def _device_counts(variable: str | None, flag: str | None, cores: int) -> list[Finding]:
    if variable and flag and variable != flag:
        found = f"JAX_NUM_CPU_DEVICES={variable}, but --{_DEVICE_COUNT}={flag} in XLA_FLAGS; the first counts"
        return [Finding("warning", "CPU devices", found, "unset one of them")]
    count = variable or flag or ""
    if count.isdigit() and int(count) > cores:
        asked = "JAX_NUM_CPU_DEVICES" if variable else "XLA_FLAGS"
        found = f"{asked} asks for {count}, and there are {cores} cores: slower"
        return [Finding("warning", "CPU devices", found, "unset it: each run then makes as many devices as pay")]
    return []
