"""The data tests' fixtures of real TFDS sets and of a cache of one's own."""

from tests.data.conftest import cache, tfds_config, tfds_root

__all__ = ["cache", "tfds_config", "tfds_root"]
