"""A bucket on a local server, for this folder's tests."""

import pytest

from tests.bucket import Bucket


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with Bucket(tmp_path_factory.mktemp("login")) as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment().items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture(autouse=True)
def obliging(bucket):
    yield
    bucket.refuses = lambda method, path: False
