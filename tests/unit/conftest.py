from __future__ import annotations

import pytest

from service.bundle.load import Bundle, EngineOptions, load_bundle
from tests.networks import write_bundle


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The darkness network in service: one window a picture, review above 0.3, reject above 0.5."""
    return load_bundle(write_bundle(tmp_path_factory.mktemp("models")), EngineOptions(provider="cpu", threads=1))
