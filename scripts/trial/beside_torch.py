"""Our training step beside torch.compile's, as scripts/benchmark.py measures it; each round's figures at once.

python -m trial.beside_torch [--rehearse]
"""

import argparse
from typing import Any

from benchmarks import training

from trial.child import say

MFU_GOAL, RATIO_GOAL = 0.45, 1.3  # of our step; of the fastest torch's time to ours
COLUMNS = (
    "contestant", "seconds_per_step", "lowest", "highest", "images_per_second", "mfu", "times_ours", "ready_seconds",
    "accelerator_gib", "params", "batch_size", "absent",
)  # fmt: skip


def verdict(rows: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """The row of the two goals, from the rows of `training.summary`."""
    ours, *peers = rows
    ratios = {row["contestant"]: row["times_ours"] for row in peers if row.get("times_ours")}
    row: dict[str, Any] = {"contestant": f"goals, after {rounds} rounds"}
    if ours.get("mfu"):
        row |= {"mfu": ours["mfu"], "mfu_goal": MFU_GOAL, "mfu_met": ours["mfu"] >= MFU_GOAL}
    if ratios:
        fastest = min(ratios, key=ratios.__getitem__)
        row |= {"fastest_torch": fastest, "times_ours": ratios[fastest]}
        row |= {"ratio_goal": RATIO_GOAL, "ratio_met": ratios[fastest] >= RATIO_GOAL}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    model, names, rounds, steps, warmup = "vit_s4", "vit_jax_bf16,torch_compile_bf16", 3, 30, 5
    if args.rehearse:
        model, names, rounds, steps, warmup = "tiny", "vit_jax_bf16,torch_compile_bf16_graphs", 1, 2, 1
    contestants = training.chosen("training", names, "bfloat16")
    spec = {"task": "training", "model": model, "batch_size": None, "steps": steps, "warmup": warmup}
    results: dict[str, list[dict[str, Any]]] = {c.name: [] for c in contestants}
    for done in range(1, rounds + 1):
        for contestant in contestants:
            results[contestant.name] += training.rounds([contestant], spec, 1)[contestant.name]
            if done == 1:  # in which each compiles: what is known is worth having if this is cut off
                row = training.summary([contestant], results, contestant.name)[0]
                say(rounds="first", model=model, **{k: row[k] for k in COLUMNS if row.get(k) is not None})
        rows = training.summary(contestants, results, training.reference_of(contestants))
        for row in rows:
            say(rounds=done, model=model, **{k: row[k] for k in COLUMNS if row.get(k) is not None})
        if "absent" in rows[0]:
            return 1
        say(**verdict(rows, done))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
