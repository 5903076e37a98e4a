"""Checkpoints of a run through Orbax: the latest and the best together, whole or not at all."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from vit_jax.config import CheckpointConfig
from vit_jax.errors import UserError
from vit_jax.optim import path_of
from vit_jax.sharding import replicated
from vit_jax.state import TrainState

_ITEM, _META = "state", "meta"


def _metric(metrics: dict[str, float]) -> float:
    return metrics["top1"]


class Checkpoints:
    """The `checkpoints/` of a workdir. Steps are counted as steps done.

    A save writes beside the others under a temporary name, in the background, and is renamed when complete; what a
    killed save left behind is never listed and goes at the next start.
    """

    def __init__(self, workdir: Path, cfg: CheckpointConfig | None = None):
        """Opens for saving with `cfg`, for reading only without: then nothing is created or cleaned up."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates each file
        self._root = Path(workdir).absolute() / "checkpoints"
        policies = [LatestN(cfg.keep_latest)] if cfg else []
        if cfg and cfg.keep_best:
            policies.append(BestN(get_metric_fn=_metric, n=cfg.keep_best, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            # Alone, best_fn would let the best push out the latest; the policy keeps both.
            best_fn=_metric,
            best_mode="max",
            preservation_policy=AnyPreservationPolicy(policies) if cfg else None,
            cleanup_tmp_directories=cfg is not None,
            read_only=cfg is None,
        )
        self._manager = ocp.CheckpointManager(self._root, options=options) if cfg or self._root.is_dir() else None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps()) if self._manager else []

    def save(self, state: TrainState, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Starts to save; `metrics` (with "top1") makes it a candidate for the best.

        A step that was saved before its evaluation could end is saved again with its metrics.
        """
        step = int(state.step)
        if step in self.steps():
            self.wait()
            self._manager.delete(step)
        items = ocp.args.Composite(**{_ITEM: ocp.args.StandardSave(state), _META: ocp.args.JsonSave(meta)})
        if not self._manager.save(step, args=items, metrics=metrics, force=True):
            raise RuntimeError(f"the checkpoint of step {step} was not saved; {self._root} has {self.steps()}")

    def resolve(self, name: str) -> int:
        """The step that "latest", "best" or a number stands for; raises UserError with those that there are."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self._root.parent} holds no checkpoint; train there first")
        if name == "latest":
            return steps[-1]
        if name == "best":
            best = self._manager.best_step()
            if best is None or self._manager.metrics(best) is None:
                raise UserError(f"{self._root.parent} has no evaluated checkpoint to be the best; there are {steps}")
            return best
        if not name.isdigit() or int(name) not in steps:
            raise UserError(f"--checkpoint={name}: there is no such checkpoint; use best, latest or one of {steps}")
        return int(name)

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given beside the state."""
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{_META: ocp.args.JsonRestore()}))[_META]
        except (ValueError, OSError, KeyError) as error:
            raise self._damaged(step, error) from error

    def restore(self, step: int, target: Any, mesh: Mesh) -> Any:
        """The whole state, or the part of it that `target` (arrays or shapes) names, on every device of the mesh.

        Raises UserError with every difference in paths, shapes and dtypes, before anything is read, and for a
        checkpoint that can't be read.
        """
        self._check(step, target)
        sharding = replicated(mesh)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), target)
        restore = ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        # A manager of its own: an Orbax manager remembers the way an item was first saved or restored.
        options = ocp.CheckpointManagerOptions(read_only=True)
        with ocp.CheckpointManager(self._root, options=options) as manager:
            try:
                return manager.restore(step, args=ocp.args.Composite(**{_ITEM: restore}))[_ITEM]
            except Exception as error:  # Orbax raises many types for damaged files, the bare one too
                raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception | str) -> UserError:
        text = (str(error).splitlines() or ["no reason given"])[0][:200]
        return UserError(
            f"checkpoint {step} in {self._root} is damaged ({text}); remove its folder to use an earlier one"
        )

    def _check(self, step: int, target: Any) -> None:
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(self._root / str(step) / _ITEM).item_metadata
        if metadata is None:
            raise self._damaged(step, "its state is missing or has no metadata")

        def flat(tree: Any) -> dict[str, tuple]:
            leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
            return {path_of(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}

        ours, theirs = flat(target), flat(metadata.tree)
        tops = {path.split("/")[0] for path in ours}
        theirs = {path: value for path, value in theirs.items() if path.split("/")[0] in tops}
        lines = [
            f"  {path}: {theirs.get(path, 'absent')} in the checkpoint, {ours.get(path, 'absent')} in the model"
            for path in sorted(ours.keys() | theirs.keys())
            if ours.get(path) != theirs.get(path)
        ]
        if lines:
            more = [f"  and {len(lines) - 20} more"] if len(lines) > 20 else []
            raise UserError("\n".join([f"checkpoint {step} does not fit the model:", *lines[:20], *more]))

    def wait(self) -> None:
        """Returns when what was saved is complete on disk; raises what went wrong."""
        if self._manager:
            self._manager.wait_until_finished()

    def close(self) -> None:
        if self._manager:
            self._manager.close()
