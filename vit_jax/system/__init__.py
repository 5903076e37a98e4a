"""What a run needs of the machine: its jobs, devices, compiler, terminal, signals and disk."""
