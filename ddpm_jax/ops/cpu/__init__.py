"""Forms of operations that are fast with XLA on a CPU, and with nothing else."""
