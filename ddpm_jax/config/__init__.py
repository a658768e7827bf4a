"""Every setting of a run: frozen, typed, checked when built, JSON both ways.

A file in `configs/` holds `get_config() -> Config`, written as its differences from the defaults
here; the command line overrides any setting by its dotted name (`--train.steps 200`). An impossible
setting or combination raises `UserError` here, before anything is read or compiled.
"""

from ddpm_jax.config.checks import (
    check_seed,
)
from ddpm_jax.config.data import (
    ArraysData,
    DataConfig,
    DigitsData,
    FolderData,
    PictureData,
    PointsData,
    TfdsData,
)
from ddpm_jax.config.files import (
    breaking,
    differences,
    dumps,
    from_dict,
    load_file,
    loads,
    override,
)
from ddpm_jax.config.plain import (
    flatten,
    to_dict,
)
from ddpm_jax.config.run import (
    Config,
    DiffusionConfig,
    MeshConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.models import (
    AnnotatedUNetConfig,
    MlpConfig,
    ModelConfig,
    SmallUNetConfig,
    StepUNetConfig,
    UNetConfig,
)

__all__ = [
    "AnnotatedUNetConfig",
    "ArraysData",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "DigitsData",
    "FolderData",
    "MeshConfig",
    "MlpConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PictureData",
    "PointsData",
    "SampleConfig",
    "SmallUNetConfig",
    "StepUNetConfig",
    "TfdsData",
    "TrainConfig",
    "UNetConfig",
    "breaking",
    "check_seed",
    "differences",
    "dumps",
    "flatten",
    "from_dict",
    "load_file",
    "loads",
    "override",
    "to_dict",
]
