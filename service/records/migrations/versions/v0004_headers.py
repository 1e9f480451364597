"""All headers that are part of a stored answer, not its place alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service.records.columns import Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency", sa.Column("headers", Json, server_default="{}", nullable=False))
    table = sa.table("idempotency", sa.column("key"), sa.column("location"), sa.column("headers", Json))
    connection = op.get_bind()
    placed = sa.select(table.c.key, table.c.location).where(table.c.location != "")
    for key, location in connection.execute(placed).all():
        headers = {"location": location, "preference-applied": "respond-async"}
        connection.execute(table.update().where(table.c.key == key).values(headers=headers))
    op.drop_column("idempotency", "location")
