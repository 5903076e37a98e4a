"""Ahead of time: a config's programs compiled for accelerators that needn't be here, and what they say of memory."""
