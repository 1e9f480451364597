"""The records, and a model's version with those of it: what commands that read them begin with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.bundle.manifest import FormName, Manifest
from service.bundle.store import EngineOptions, Store
from service.errors import BadRequest
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.records.database import Database


@dataclass(frozen=True, slots=True)
class Recorded:
    """A version in the models folder, and the open database."""

    store: Store
    manifest: Manifest
    database: Database

    @property
    def folder(self) -> Path:
        """The version's folder."""
        return self.store.models_dir / self.manifest.name / str(self.manifest.version)

    def form(self, asked: FormName | None) -> FormName:
        """The form asked for, or else the one that judged most recorded pictures. Raises BadRequest for one that it has not."""
        from service.records.good_parts import forms_recorded  # noqa: PLC0415 - the database is loaded only here

        name, version, forms = self.manifest.name, self.manifest.version, self.manifest.forms
        if asked is not None:
            if asked not in forms:
                raise BadRequest(f"{name} {version} has no form {asked}; it has {', '.join(forms)}")
            return asked
        busiest = forms_recorded(self.database, name, version)[:1]
        return next((form for form in forms if form in busiest), "float32")


def require_records(settings: Settings) -> None:
    """Raises BadRequest when the records' folder should hold the database and does not: who reads must not make an empty
    one of a mistyped name."""
    if settings.database_url is None and not (settings.records_dir / "records.sqlite").is_file():
        raise BadRequest(f"no records in {settings.records_dir}: set FLAWSCRIBE_RECORDS_DIR or FLAWSCRIBE_DATABASE_URL")


@contextmanager
def recorded(name: str, version: int | None) -> Iterator[Recorded]:
    """The version (None: the active one) and the records, until the block ends.

    Raises BadRequest without records or an active version, NoSuchModel, BundleRefused, RecordsFailure.
    """
    from service.records.database import open_database  # noqa: PLC0415 - see above

    settings = load_settings()
    store = Store(settings.models_dir, EngineOptions())
    wanted = store.active_version(name) if version is None else version
    if wanted is None:
        raise BadRequest(f"no version of {name} is in service; name one with --version")
    manifest = store.manifest(name, wanted)
    require_records(settings)
    database = open_database(settings.records_dir, settings.database_url)
    try:
        yield Recorded(store, manifest, database)
    finally:
        database.close()


def keeps_choice(models_dir: Path, name: str) -> bool:
    """Whether the model has versions: then the one that answers goes on answering, also over a restart, when a further one is
    written, until a person says otherwise. Raises BundleRefused when the models folder cannot be written."""
    store = Store(models_dir, EngineOptions())
    further = name in store.names()
    if further:
        store.keep_choice(name)
    return further


def written(folder: Path) -> str:
    """What to tell of a version that was written."""
    name = folder.parent.name
    return f'{folder} written; put it in service: POST /models/{name}/activate {{"version": {folder.name}}}'
