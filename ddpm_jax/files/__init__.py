"""Paths: only this package distinguishes a local folder from a bucket.

`storage_path` turns the user's text into a `pathlib.Path`, or into a `Remote` for gs://BUCKET/PATH.
Both have the same methods, and all code that opens, lists or removes files of a run uses these. Two
operations differ, because a bucket can neither rename a folder (`checkpoints.commit`) nor append to
a file (`Spool`).
"""

from ddpm_jax.files.foreign import is_foreign
from ddpm_jax.files.remote import Remote, StoreError
from ddpm_jax.files.spool import Spool
from ddpm_jax.files.storage_path import (
    StoragePath,
    as_text,
    cache_folder,
    exclusive,
    files_below,
    flush,
    local_path,
    mend,
    reason,
    remove,
    replacing,
    sha256,
    storage_path,
)

__all__ = [
    "Remote",
    "Spool",
    "StoragePath",
    "StoreError",
    "as_text",
    "cache_folder",
    "exclusive",
    "files_below",
    "flush",
    "is_foreign",
    "local_path",
    "mend",
    "reason",
    "remove",
    "replacing",
    "sha256",
    "storage_path",
]
