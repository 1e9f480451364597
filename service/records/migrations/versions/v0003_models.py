"""Master parts and their checks; candidate versions in shadow and what they said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service.records.columns import Json, Serial, UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "masters",
        sa.Column("id", sa.String(length=32), nullable=False),
        _text("model_name"),
        sa.Column("added_at", UtcTime(), nullable=False),
        _text("who"),
        _text("name"),
        sa.Column("expected", sa.String(length=16), nullable=False),
        sa.Column("image_sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("masters_by_model", "masters", ["model_name", "added_at"], unique=False)
    op.create_table(
        "checks",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        _text("model_name"),
        sa.Column("model_version", sa.Integer(), nullable=False),
        _text("precision"),
        sa.Column("at", UtcTime(), nullable=False),
        _text("who"),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("results", Json, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("checks_by_model", "checks", ["model_name", "id"], unique=False)
    op.create_table(
        "shadows",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        _text("model_name"),
        sa.Column("active_version", sa.Integer(), nullable=False),
        sa.Column("candidate_version", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=False),
        _text("who"),
        sa.Column("stopped_at", UtcTime(), nullable=True),
        _text("reason"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("shadows_by_model", "shadows", ["model_name", "id"], unique=False)
    op.create_table(
        "shadow_results",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        sa.Column("shadow_id", Serial, nullable=False),
        sa.Column("inspection_id", sa.String(length=32), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("active_verdict", sa.String(length=16), nullable=False),
        sa.Column("active_score", sa.Double(), nullable=True),
        sa.Column("active_reject", sa.Double(), nullable=False),
        sa.Column("candidate_verdict", sa.String(length=16), nullable=False),
        sa.Column("candidate_score", sa.Double(), nullable=True),
        sa.Column("candidate_reject", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["shadow_id"], ["shadows.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("shadow_results_by_shadow", "shadow_results", ["shadow_id", "id"], unique=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)
