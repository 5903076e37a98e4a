"""One HTML page about runs (vit-jax report): no script, no font and no picture from anywhere else."""
