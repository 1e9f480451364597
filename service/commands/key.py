"""flawscribe key create | list | revoke"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from service.api.access import SCOPES, Scope, create_key, list_keys, revoke_key
from service.errors import SettingsError

keys = typer.Typer(help="API keys of the service (FLAWSCRIBE_KEYS_FILE).", no_args_is_help=True)
KeysFile = Annotated[Path, typer.Option(envvar="FLAWSCRIBE_KEYS_FILE", help="The keys file; made when missing.")]


@keys.command()
def create(
    keys_file: KeysFile,
    scope: Annotated[list[str], typer.Option(help="detect, review or admin; may be repeated.")],
    note: Annotated[str, typer.Option(help="Whose key it is.")] = "",
) -> None:
    """Make a key and print it once; only its hash is stored.

    Example: flawscribe key create --keys-file keys.json --scope detect --note "line 3"
    """
    if unknown := [name for name in scope if name not in SCOPES]:
        raise SettingsError(f"unknown scope {', '.join(unknown)}; known are {', '.join(SCOPES)}")
    key, secret = create_key(keys_file, cast("tuple[Scope, ...]", tuple(scope)), note)
    typer.echo(f"{secret}\n(key {key.id}, shown only now)")


@keys.command("list")
def list_all(keys_file: KeysFile) -> None:
    """List the keys: id, scopes, age and note.

    Example: flawscribe key list --keys-file keys.json
    """
    for key in list_keys(keys_file):
        typer.echo(f"{key.id}  {','.join(key.scopes):20}  {key.created_at}  {key.note}")


@keys.command()
def revoke(keys_file: KeysFile, key_id: Annotated[str, typer.Argument(help="Id of the key.")]) -> None:
    """Remove a key: from the next request on it opens nothing, and its browser sessions end.

    Example: flawscribe key revoke --keys-file keys.json 896cf92a
    """
    revoke_key(keys_file, key_id)
    typer.echo(f"key {key_id} revoked")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys, name="key")
