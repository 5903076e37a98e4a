"""The training step and all that it is made of: pure functions of state, data and config."""
