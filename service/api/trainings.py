"""Trainings over HTTP: start one on a zip or a server folder, watch, cancel, resume, remove."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.query import no_query
from service.api.state import ServiceState, require
from service.api.upload import UploadLimits, read_upload
from service.api.wire import read_body, validated
from service.errors import InvalidParameter, UnsupportedMediaType
from service.trainings.order import Order
from service.trainings.supervisor import Training

router = APIRouter(prefix="/trainings", tags=["trainings"], dependencies=[Depends(no_query)])
_ZIP_PART = "pictures"
_FORM = {
    "type": "object",
    "required": ["name", _ZIP_PART],
    "properties": {
        _ZIP_PART: {"type": "string", "format": "binary", "description": "Zip of pictures of good parts."},
        **{name: shape for name, shape in Order.model_json_schema()["properties"].items() if name != "folder"},
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": Order.model_json_schema()},
        },
    }
}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SampleAnswer(_Answer):
    """A held-out picture with its heatmap at the last evaluation. `flawed`: a flaw was painted on it."""

    url: str
    step: int
    flawed: bool
    score: float


class TrainingSummary(_Answer):
    """A training. `interrupted`: its process died; `seconds_left`: of its steps."""

    id: str
    name: str
    created_at: datetime
    who: str
    state: Literal["running", "done", "failed", "cancelled", "interrupted"]
    phase: Literal["preparing", "training", "finishing", "done", "failed"]
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None
    version: int | None = Field(description="The model's version that came of it; not active until it is activated.")
    error: str | None


class TrainingAnswer(TrainingSummary):
    """The same with all that can be watched. `curve`: [step, loss]; `scores`: [step, separation of painted flaws 0..1]."""

    order: dict[str, Any]
    uploaded: bool
    left_out: int = Field(description="Files of the upload that are no pictures.")
    curve: list[tuple[int, float]]
    scores: list[tuple[int, float]]
    samples: list[SampleAnswer]
    said: list[str]
    log_tail: list[str]
    updated_at: datetime | None


class TrainingList(_Answer):
    """GET /trainings, newest first. `why_not`: why none can be started here."""

    trainings: list[TrainingSummary]
    running: str | None
    why_not: str | None
    teachers: list[str]
    folders_below: str | None = Field(description="Where server folders may be named; null: uploads only.")


@router.get("", summary="All trainings, newest first")
def list_trainings(request: Request) -> TrainingList:
    """And what a new one can be made with."""
    trainings = require(request, "admin").trainings
    root = trainings.place.data_dir
    return TrainingList(
        trainings=[TrainingSummary(**_summary(each)) for each in trainings.all()],
        running=trainings.running(),
        why_not=trainings.why_not(),
        teachers=trainings.teachers(),
        folders_below=None if root is None else str(root),
    )


@router.post("", status_code=201, summary="Train a model on pictures of good parts", openapi_extra=_BODY)
async def start_training(request: Request, response: Response) -> TrainingAnswer:
    """Send a zip as a form's part `pictures` with the options as fields, or JSON with `folder`, a folder of the server.

    The training runs in a process of lowest priority and goes on when the browser leaves. Its model's new version is not
    active until POST /models/{name}/activate. One at a time: 409 while another runs. 501 where PyTorch is not installed.
    """
    state = require(request, "admin")
    await asyncio.to_thread(state.trainings.require)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    who = state.caller(request)
    if media_type == "multipart/form-data":
        training = await _start_uploaded(request, state, who)
    elif media_type == "application/json":
        order = _order(await read_body(request, state.small_body))
        training = await asyncio.to_thread(state.trainings.start, order, who)
    else:
        raise UnsupportedMediaType(
            f"content type {media_type or '(none)'}; send multipart/form-data or application/json"
        )
    response.headers["location"] = f"/trainings/{training.record.id}"
    return await asyncio.to_thread(_answer, state, training)


@router.get("/{training_id}", summary="One training: progress, curve, heatmaps, log")
def show_training(request: Request, training_id: str) -> TrainingAnswer:
    """As it stands now; to be asked again every few seconds while it runs."""
    state = require(request, "admin")
    return _answer(state, state.trainings.get(training_id))


@router.post("/{training_id}/cancel", summary="End a running training")
def cancel_training(request: Request, training_id: str) -> TrainingAnswer:
    """Its processes are ended, all of them. It can be resumed from its last evaluation."""
    state = require(request, "admin")
    return _answer(state, state.trainings.cancel(training_id))


@router.post("/{training_id}/resume", summary="Go on with a training that was cancelled, failed or died")
def resume_training(request: Request, training_id: str) -> TrainingAnswer:
    """From its last evaluation on, or from the start where there was none."""
    state = require(request, "admin")
    return _answer(state, state.trainings.resume(training_id))


@router.delete(
    "/{training_id}",
    status_code=204,
    summary="Remove a training's pictures, log and checkpoints",
    response_class=Response,
)
def remove_training(request: Request, training_id: str) -> Response:
    """The model that came of it stays."""
    require(request, "admin").trainings.remove(training_id)
    return Response(status_code=204)


@router.get(
    "/{training_id}/samples/{file}",
    summary="A heatmap of the last evaluation",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
def show_sample(request: Request, training_id: str, file: str) -> Response:
    """As JPEG; its name changes with each evaluation."""
    data = require(request, "admin").trainings.sample(training_id, file)
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


async def _start_uploaded(request: Request, state: ServiceState, who: str) -> Training:
    settings = state.settings
    limits = UploadLimits(int(settings.training_upload_mb * 2**20), settings.body_timeout_s)
    target = await asyncio.to_thread(state.trainings.upload_path)
    try:
        fields = await read_upload(request, _ZIP_PART, target, limits)
        if "folder" in fields:
            raise InvalidParameter("give either a zip of pictures or `folder`, one of them")
        order = _order(fields)
        return await asyncio.to_thread(state.trainings.start, order, who, target)
    finally:
        await asyncio.to_thread(target.unlink, missing_ok=True)


def _order(given: bytes | dict[str, str]) -> Order:
    """Raises InvalidParameter naming the option that is wrong."""
    try:
        return validated(Order, given) if isinstance(given, bytes) else Order.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"])) or "options"
        raise InvalidParameter(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error


def _summary(training: Training) -> dict[str, Any]:
    record, progress = training.record, training.progress
    return {
        "id": record.id,
        "name": record.order.name,
        "created_at": record.created_at,
        "who": record.who,
        "state": training.state,
        "phase": progress.phase,
        "step": progress.step,
        "steps": progress.steps,
        "loss": progress.loss,
        "seconds_left": progress.seconds_left if training.state == "running" else None,
        "version": training.version,
        "error": training.error,
    }


def _answer(state: ServiceState, training: Training) -> TrainingAnswer:
    record, progress = training.record, training.progress
    samples = [
        SampleAnswer(
            url=f"/trainings/{record.id}/samples/{each.file}", step=each.step, flawed=each.flawed, score=each.score
        )
        for each in progress.samples
    ]
    return TrainingAnswer(
        **_summary(training),
        order=record.order.model_dump(exclude_none=True),
        uploaded=record.uploaded,
        left_out=record.left_out,
        curve=list(progress.curve),
        scores=list(progress.scores),
        samples=samples,
        said=list(progress.said),
        log_tail=state.trainings.log_tail(record.id),
        updated_at=progress.updated_at,
    )
