"""Every setting of a run: frozen, typed, checked when built, JSON both ways.

A config file has `get_config() -> Config`, which states only what differs from the defaults. The
command line replaces any setting by its dotted name (`--train.steps 200`). An impossible setting or
combination raises `UserError` here, before anything is read or compiled.

    run.py                          the sections and their checks; the rooms of networks and of
                                    sources have their own
    choices.py                      a setting that chooses a row of a table, with the row's options
    plain.py, reading.py            plain values both ways; override, differences, breaking
    files.py                        JSON text, config files, the shipped configs by name
    migrations.py, format_N.py      what older versions saved
    settings.py                     the list of all settings, for flags, help and forms
"""

from ddpm_jax.config.checks import (
    check_seed,
)
from ddpm_jax.config.files import (
    UnreadableConfig,
    dumps,
    load_file,
    loads,
)
from ddpm_jax.config.migrations import FORMAT, check_format, lift_arrays
from ddpm_jax.config.plain import (
    flatten,
    to_dict,
)
from ddpm_jax.config.reading import (
    breaking,
    differences,
    from_dict,
    from_saved,
    override,
)
from ddpm_jax.config.run import (
    Config,
    DiffusionConfig,
    MeshConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
    check_variance,
)
from ddpm_jax.config.settings import Setting, canonical, option_settings, settings
from ddpm_jax.config.validation import ValidationConfig, held_out_data
from ddpm_jax.data import DataConfig
from ddpm_jax.data.settings import (
    ArraysData,
    DigitsData,
    FolderData,
    PictureData,
    PointsData,
    TfdsData,
    describe_shown,
    shown_channels,
)
from ddpm_jax.models import (
    AnnotatedUNetConfig,
    LucidrainsUNetConfig,
    MlpConfig,
    ModelConfig,
    SmallUNetConfig,
    StepUNetConfig,
    UNetConfig,
    UNetEncoderConfig,
)
from ddpm_jax.tables import Choice

__all__ = [
    "FORMAT",
    "AnnotatedUNetConfig",
    "ArraysData",
    "Choice",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "DigitsData",
    "FolderData",
    "LucidrainsUNetConfig",
    "MeshConfig",
    "MlpConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PictureData",
    "PointsData",
    "SampleConfig",
    "Setting",
    "SmallUNetConfig",
    "StepUNetConfig",
    "TfdsData",
    "TrainConfig",
    "UNetConfig",
    "UNetEncoderConfig",
    "UnreadableConfig",
    "ValidationConfig",
    "breaking",
    "canonical",
    "check_format",
    "check_seed",
    "check_variance",
    "describe_shown",
    "differences",
    "dumps",
    "flatten",
    "from_dict",
    "from_saved",
    "held_out_data",
    "lift_arrays",
    "load_file",
    "loads",
    "option_settings",
    "override",
    "settings",
    "shown_channels",
    "to_dict",
]
