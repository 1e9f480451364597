"""The tables as they are now; migrations/ leads there, and a test holds the two together."""

from __future__ import annotations

import sqlalchemy as sa

from service.records.columns import Float32s, Json, Serial, UtcTime

metadata = sa.MetaData()
_Id = sa.String(32)  # uuid4 in hex


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


inspections = sa.Table(
    "inspections",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    _text("request_id"),
    sa.Column("created_at", UtcTime, nullable=False),
    _text("model_name"),
    sa.Column("model_version", sa.Integer, nullable=False),
    _text("precision"),
    _text("provider"),
    _text("teacher_sha256"),
    _text("product"),
    _text("lot"),
    _text("serial"),
    _text("station"),
    _text("view"),
    sa.Column("captured_at", UtcTime),
    sa.Column("metadata", Json, nullable=False),
    _text("image_sha256"),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("score", sa.Double),  # null where it is not a finite number
    sa.Column("review_threshold", sa.Double, nullable=False),
    sa.Column("reject_threshold", sa.Double, nullable=False),
    sa.Column("p_value", sa.Double),
    sa.Column("reasons", Json, nullable=False),
    sa.Column("regions", Json, nullable=False),
    sa.Column("descriptors", Float32s),  # [regions, C], row by row
    sa.Column("timings", Json, nullable=False),
    sa.Column("picture_stored", sa.Boolean, nullable=False),
    _text("threshold_method"),  # of the reject threshold; empty in rows of before it was kept
    sa.Index("inspections_by_time", "created_at", "id"),
    sa.Index("inspections_by_product", "product", "created_at"),
    sa.Index("inspections_by_lot", "lot", "created_at"),
    sa.Index("inspections_by_serial", "serial", "created_at"),
    sa.Index("inspections_by_station", "station", "created_at"),
    sa.Index("inspections_by_verdict", "verdict", "created_at"),
    sa.Index("inspections_by_image", "image_sha256"),
)
_of_inspection = sa.ForeignKey("inspections.id", ondelete="CASCADE")

classifications = sa.Table(
    "classifications",
    metadata,
    sa.Column("inspection_id", _Id, _of_inspection, primary_key=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("picture", Json, nullable=False),
    sa.Column("regions", Json, nullable=False),
    sa.Column("llm", Json),
)

WHOLE_PICTURE = -1
labels = sa.Table(  # the label that holds now: a person's where there is one, else the caption's
    "labels",
    metadata,
    sa.Column("inspection_id", _Id, sa.ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("region", sa.Integer, primary_key=True, autoincrement=False),  # WHOLE_PICTURE for the picture itself
    sa.Column("label", sa.Text, nullable=False),
    sa.Index("labels_by_label", "label", "inspection_id"),
)

reviews = sa.Table(  # append-only; holds what threshold advice needs, so that it outlives the inspection
    "reviews",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    sa.Column("inspection_id", _Id, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    _text("who"),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("region", sa.Integer),
    sa.Column("region_count", sa.Integer, nullable=False),
    _text("label"),
    _text("cause"),
    _text("action"),
    _text("comment"),
    sa.Column("case_id", _Id),
    _text("product"),
    _text("model_name"),
    sa.Column("model_version", sa.Integer, nullable=False),
    _text("precision"),
    sa.Column("decided", sa.String(16), nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("review_threshold", sa.Double, nullable=False),
    sa.Column("reject_threshold", sa.Double, nullable=False),
    sa.Index("reviews_by_inspection", "inspection_id", "id"),
    sa.Index("reviews_by_model", "model_name", "model_version", "precision"),
    sqlite_autoincrement=True,
)

cases = sa.Table(
    "cases",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("inspection_id", _Id, nullable=False),
    sa.Column("region", sa.Integer, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    _text("product"),
    _text("teacher_sha256"),
    _text("label"),
    _text("cause"),
    _text("action"),
    sa.Column("descriptor", Float32s, nullable=False),
    sa.Index("cases_by_region", "inspection_id", "region", unique=True),
    sa.Index("cases_by_product", "product", "teacher_sha256"),
)

accepted_labels = sa.Table(
    "accepted_labels",
    metadata,
    sa.Column("product", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    _text("who"),
)

audit = sa.Table(  # append-only
    "audit",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    sa.Column("at", UtcTime, nullable=False),
    _text("who"),
    _text("kind"),
    _text("subject"),
    sa.Column("detail", Json, nullable=False),
    sqlite_autoincrement=True,
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body_sha256", sa.String(64), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Column("owner", _Id, nullable=False),
    sa.Column("lease_until", UtcTime, nullable=False),
    sa.Column("status", sa.Integer),  # null while the request runs
    _text("media_type"),
    sa.Column("answer", sa.LargeBinary),
    sa.Column("headers", Json, nullable=False, server_default="{}"),  # those that are part of the answer
    sa.Index("idempotency_by_expiry", "expires_at"),
)

llm_spend = sa.Table(  # what the LLM cost on a UTC day, all services together
    "llm_spend",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
)

masters = sa.Table(  # pictures of known parts, by which a model is checked every day
    "masters",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    _text("model_name"),
    sa.Column("added_at", UtcTime, nullable=False),
    _text("who"),
    _text("name"),
    sa.Column("expected", sa.String(16), nullable=False),
    sa.Column("image_sha256", sa.String(64), nullable=False),
    sa.Index("masters_by_model", "model_name", "added_at"),
)

checks = sa.Table(
    "checks",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    _text("model_name"),
    sa.Column("model_version", sa.Integer, nullable=False),
    _text("precision"),
    sa.Column("at", UtcTime, nullable=False),
    _text("who"),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("results", Json, nullable=False),  # one a master
    sa.Index("checks_by_model", "model_name", "id"),
    sqlite_autoincrement=True,
)

shadows = sa.Table(  # a candidate version that judged the same pictures as the active one
    "shadows",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    _text("model_name"),
    sa.Column("active_version", sa.Integer, nullable=False),
    sa.Column("candidate_version", sa.Integer, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    _text("who"),
    sa.Column("stopped_at", UtcTime),  # null while it runs, over restarts too
    _text("reason"),
    sa.Index("shadows_by_model", "model_name", "id"),
    sqlite_autoincrement=True,
)

shadow_results = sa.Table(
    "shadow_results",
    metadata,
    sa.Column("id", Serial, primary_key=True, autoincrement=True),
    sa.Column("shadow_id", Serial, sa.ForeignKey("shadows.id", ondelete="CASCADE"), nullable=False),
    sa.Column("inspection_id", _Id, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("active_verdict", sa.String(16), nullable=False),
    sa.Column("active_score", sa.Double),
    sa.Column("active_reject", sa.Double, nullable=False),
    sa.Column("candidate_verdict", sa.String(16), nullable=False),
    sa.Column("candidate_score", sa.Double),
    sa.Column("candidate_reject", sa.Double, nullable=False),
    sa.Index("shadow_results_by_shadow", "shadow_id", "id"),
    sqlite_autoincrement=True,
)
