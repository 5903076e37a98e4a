"""What scripts/accelerator_trial.py runs, one file an idea; each part is a process of its own."""
