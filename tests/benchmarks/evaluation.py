"""The table of default metrics, from samples of few steps to real data and noise.

python tests/benchmarks/evaluation.py REFERENCE NAME=SAMPLES.npz ... [noise]

REFERENCE is a set of data, a run or a file of arrays. Prints a row of a Markdown table for each set.
"""

import sys

import numpy as np

from ddpm_jax.config import resolve_config
