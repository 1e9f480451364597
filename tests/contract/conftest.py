from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.serving import Service, running
from tests.networks import write_bundle


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, "probe", 1, working_size=448, global_map=True)
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with running(models_dir) as running_service:
        yield running_service
