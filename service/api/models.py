"""GET /models, GET /models/{name}, a version's report; which is in service: POST /models/{name}/activate and /rollback."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from service.api import schemas, standalone
from service.api.query import no_query
from service.api.state import ServiceState, require
from service.api.wire import read_body, validated
from service.bundle.manifest import Manifest
from service.bundle.store import Store
from service.errors import BundleRefused, Conflict, InvalidParameter, NoSuchReport

_LARGEST_BODY = 1024
_REPORT = "report.html"
router = APIRouter(tags=["models"], dependencies=[Depends(no_query)])


@router.get("/models", summary="The models of the models folder")
def list_models(request: Request) -> schemas.ModelList:
    """Name, versions and the active version of each model."""
    state = require(request, "detect", "review")
    return schemas.ModelList(
        models=[
            schemas.ModelSummary(
                name=name,
                default=name == state.default_model,
                active_version=state.store.active_version(name),
                versions=state.store.versions(name),
            )
            for name in state.store.names()
        ]
    )


@router.get("/models/{name}", summary="One model and its versions")
def show_model(request: Request, name: str) -> schemas.ModelDetail:
    """What each version was trained on, its thresholds by form, and which versions are refused and why."""
    state = require(request, "detect", "review")
    store = state.store
    versions, refused = [], {}
    for version in store.versions(name):
        try:
            versions.append(_version(store, store.manifest(name, version)))
        except BundleRefused as error:
            refused[str(version)] = state.without_folder(error.detail)
    return schemas.ModelDetail(
        name=name,
        active_version=store.active_version(name),
        previous_version=store.previous_version(name),
        versions=versions,
        refused=refused,
    )


@router.get(
    "/models/{name}/versions/{version}/report",
    summary="What a version learned, as a page",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}},
)
def show_report(request: Request, name: str, version: int) -> Response:
    """The bundle's report.html: thresholds, curves, heatmaps, and the training pictures that look least normal. The page
    stands alone: it can be mailed."""
    store = require(request, "detect", "review").store
    store.manifest(name, version)  # raises NoSuchModel: a path is made of what is there alone
    try:
        page = (store.models_dir / name / str(version) / _REPORT).read_bytes()
    except FileNotFoundError as error:
        raise NoSuchReport(f"version {version} of {name} was written without a report") from error
    return Response(page, media_type="text/html; charset=utf-8", headers=standalone.HEADERS)


_BODY = {"required": True, "content": {"application/json": {"schema": schemas.Activation.model_json_schema()}}}


@router.post("/models/{name}/activate", summary="Put a version in service", openapi_extra={"requestBody": _BODY})
async def activate(request: Request, name: str) -> schemas.ModelDetail:
    """Verify, load and warm up a version, then swap it in; the one in service stays when the new one is refused (409)."""
    state = require(request, "admin")  # before the body: FastAPI would read it first, for anybody and without a bound
    body = await read_body(request, replace(state.limits, max_bytes=_LARGEST_BODY))
    try:
        wanted = validated(schemas.Activation, body)
    except ValidationError as error:
        raise InvalidParameter(f'the body must be {{"version": N}}: {error.errors()[0]["msg"]}') from error
    return await _put_in_service(request, state, name, wanted.version)


@router.post("/models/{name}/rollback", summary="Put the version before back in service")
async def roll_back(request: Request, name: str) -> schemas.ModelDetail:
    """The one that was in service before the active one; 409 where there is none. Again: the other way round."""
    state = require(request, "admin")
    before = state.store.previous_version(name)
    if before is None:
        raise Conflict(f"no version of {name} was in service before the active one")
    return await _put_in_service(request, state, name, before)


async def _put_in_service(request: Request, state: ServiceState, name: str, version: int) -> schemas.ModelDetail:
    before = state.store.active_version(name)
    state.describe(await asyncio.to_thread(state.store.activate, name, version))
    await asyncio.to_thread(state.shadows.model_changed, state.records, name, version)
    await state.note_model_change(request, name, {"activated": version, "before": before})
    return await asyncio.to_thread(show_model, request, name)


def _version(store: Store, manifest: Manifest) -> schemas.ModelVersion:
    name, version = manifest.name, manifest.version
    return schemas.ModelVersion(
        version=version,
        active=store.active_version(name) == version,
        loaded=store.is_loaded(name, version),
        created_at=manifest.created_at.isoformat(),
        network=manifest.network.size,
        global_map=manifest.network.global_map,
        forms=list(manifest.forms),
        working_resolution=f"{manifest.prepare.rule} {manifest.prepare.value:g}",
        thresholds={
            form_name: {
                "review": form.review_threshold,
                "reject": form.reject_threshold,
                "method": form.reject_rule.method,
                "false_reject_rate": form.reject_rule.false_reject_rate,
                "parts": form.reject_rule.parts,
            }
            for form_name, form in manifest.forms.items()
        },
        teacher=manifest.teacher.name,
        training=manifest.training,
        metrics=manifest.metrics,
        data=manifest.data,
        report=f"/models/{name}/versions/{version}/report" if _REPORT in manifest.files else None,
    )
