"""`python -m ddpm_jax.cli` is `ddpm`."""

import sys

from ddpm_jax.cli.main import main

sys.exit(main())
