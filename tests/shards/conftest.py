"""A small data set for each test."""

import pytest
from shards.samples import make_dataset


@pytest.fixture
def dataset_url(tmp_path) -> str:
    make_dataset(str(tmp_path / "set"))
    return str(tmp_path / "set")
