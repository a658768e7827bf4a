"""What all tests share: the mathematics' annotated shapes and types are checked on each call."""

import jaxtyping

# Before anything imports the package: the hook rewrites modules as they load. Production runs never
# install it, so the annotations cost nothing there.
jaxtyping.install_import_hook(
    "ddpm_jax.diffusion", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)
