"""Where files go: the one place that knows a local folder from a bucket.

`storage_path` makes a path of what the user gave: a `pathlib.Path`, or a `Remote` for gs://BUCKET/PATH,
which answers to the same names. Whatever opens, lists or removes something of a run folder does it
through these, so that nothing above asks which of the two it has, but for two things that a bucket
lacks: it can't rename a folder (`training.commit`), and it can't add to a file (`Spool`).
"""

from ddpm_jax.files.remote import Remote, StoreError
from ddpm_jax.files.spool import Spool
from ddpm_jax.files.storage_path import (
    StoragePath,
    cache_folder,
    exclusive,
    files_below,
    remove,
    replacing,
    storage_path,
)

__all__ = [
    "Remote",
    "Spool",
    "StoragePath",
    "StoreError",
    "cache_folder",
    "exclusive",
    "files_below",
    "remove",
    "replacing",
    "storage_path",
]
