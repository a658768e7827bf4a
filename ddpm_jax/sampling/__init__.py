"""From parameters to samples: the denoiser, the compiled chain, a run as an object, files."""
