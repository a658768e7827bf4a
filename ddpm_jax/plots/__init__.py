"""NumPy in, PNG or GIF out: every figure of a run, from arrays alone.

Each function takes the output's path first, draws the whole file beside it and then renames it, so
that a kill never leaves half a picture. All raise `UserError` for a path that can't be written or
has another suffix, and `ValueError` for arrays of another shape.
"""

from ddpm_jax.plots.curves import loss, schedules
from ddpm_jax.plots.examples import film, grid, strip
from ddpm_jax.plots.style import check_path

__all__ = ["check_path", "film", "grid", "loss", "schedules", "strip"]
