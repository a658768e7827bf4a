"""NumPy in, PNG or GIF out: every figure of a run, drawn from arrays.

Each function takes the output's path first. It writes a temporary file and renames it, so that a
kill never leaves half a picture. All raise `UserError` if the path can't be written or has a wrong
suffix, and `ValueError` if the arrays have a wrong shape.
"""

from ddpm_jax.plots.curves import bound, loss, schedules, sweep
from ddpm_jax.plots.examples import animation, grid, trajectory
from ddpm_jax.plots.style import check_path

__all__ = ["animation", "bound", "check_path", "grid", "loss", "schedules", "sweep", "trajectory"]
