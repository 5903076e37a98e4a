"""Each promise of vit_jax as a trial that is repeated: a few times in the tests, many in scripts/torture.py."""
