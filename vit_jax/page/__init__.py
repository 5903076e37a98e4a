"""One HTML page about runs (scripts/report.py): no script, no font and no picture from anywhere else."""
