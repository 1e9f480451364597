"""The first schema: inspections, their words, reviews, cases, the audit and idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service.records.columns import Float32s, Json, Serial, UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = ("reviews", "audit")


def upgrade() -> None:
    op.create_table(
        "accepted_labels",
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("who", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("product", "label"),
    )
    op.create_table(
        "audit",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("who", sa.Text(), server_default="", nullable=False),
        sa.Column("kind", sa.Text(), server_default="", nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", Json, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("inspection_id", sa.String(length=32), nullable=False),
        sa.Column("region", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("product", sa.Text(), server_default="", nullable=False),
        sa.Column("teacher_sha256", sa.Text(), server_default="", nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("cause", sa.Text(), server_default="", nullable=False),
        sa.Column("action", sa.Text(), server_default="", nullable=False),
        sa.Column("descriptor", Float32s(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("cases_by_product", "cases", ["product", "teacher_sha256"], unique=False)
    op.create_index("cases_by_region", "cases", ["inspection_id", "region"], unique=True)
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("lease_until", UtcTime(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("media_type", sa.Text(), server_default="", nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("idempotency_by_expiry", "idempotency", ["expires_at"], unique=False)
    op.create_table(
        "inspections",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("model_name", sa.Text(), server_default="", nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("precision", sa.Text(), server_default="", nullable=False),
        sa.Column("provider", sa.Text(), server_default="", nullable=False),
        sa.Column("teacher_sha256", sa.Text(), server_default="", nullable=False),
        sa.Column("product", sa.Text(), server_default="", nullable=False),
        sa.Column("lot", sa.Text(), server_default="", nullable=False),
        sa.Column("serial", sa.Text(), server_default="", nullable=False),
        sa.Column("station", sa.Text(), server_default="", nullable=False),
        sa.Column("view", sa.Text(), server_default="", nullable=False),
        sa.Column("captured_at", UtcTime(), nullable=True),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("image_sha256", sa.Text(), server_default="", nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("review_threshold", sa.Double(), nullable=False),
        sa.Column("reject_threshold", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("reasons", Json, nullable=False),
        sa.Column("regions", Json, nullable=False),
        sa.Column("descriptors", Float32s(), nullable=True),
        sa.Column("timings", Json, nullable=False),
        sa.Column("picture_stored", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("inspections_by_image", "inspections", ["image_sha256"], unique=False)
    op.create_index("inspections_by_lot", "inspections", ["lot", "created_at"], unique=False)
    op.create_index("inspections_by_product", "inspections", ["product", "created_at"], unique=False)
    op.create_index("inspections_by_serial", "inspections", ["serial", "created_at"], unique=False)
    op.create_index("inspections_by_station", "inspections", ["station", "created_at"], unique=False)
    op.create_index("inspections_by_time", "inspections", ["created_at", "id"], unique=False)
    op.create_index("inspections_by_verdict", "inspections", ["verdict", "created_at"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        sa.Column("inspection_id", sa.String(length=32), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("who", sa.Text(), server_default="", nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("region", sa.Integer(), nullable=True),
        sa.Column("region_count", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("cause", sa.Text(), server_default="", nullable=False),
        sa.Column("action", sa.Text(), server_default="", nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=True),
        sa.Column("product", sa.Text(), server_default="", nullable=False),
        sa.Column("model_name", sa.Text(), server_default="", nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("precision", sa.Text(), server_default="", nullable=False),
        sa.Column("decided", sa.String(length=16), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("review_threshold", sa.Double(), nullable=False),
        sa.Column("reject_threshold", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("reviews_by_inspection", "reviews", ["inspection_id", "id"], unique=False)
    op.create_index("reviews_by_model", "reviews", ["model_name", "model_version", "precision"], unique=False)
    op.create_table(
        "classifications",
        sa.Column("inspection_id", sa.String(length=32), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("picture", Json, nullable=False),
        sa.Column("regions", Json, nullable=False),
        sa.Column("llm", Json, nullable=True),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("inspection_id"),
    )
    op.create_table(
        "labels",
        sa.Column("inspection_id", sa.String(length=32), nullable=False),
        sa.Column("region", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("inspection_id", "region"),
    )
    op.create_index("labels_by_label", "labels", ["label", "inspection_id"], unique=False)

    for table in _APPEND_ONLY:
        _forbid_changes(table)


def _forbid_changes(table: str) -> None:
    """No statement, by whomever, changes or removes a row."""
    if op.get_context().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
    )
