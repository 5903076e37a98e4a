"""The folder of a run: what is written there, and what is read back."""
