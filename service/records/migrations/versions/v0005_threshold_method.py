"""How an inspection's reject threshold was chosen. Both databases add a column with a default without rewriting the table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("inspections", sa.Column("threshold_method", sa.Text(), server_default="", nullable=False))
