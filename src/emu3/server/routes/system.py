"""Models, health checks, metrics and the documentation page."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from emu3.server.dependencies import EngineDep, MetricsDep, SettingsDep
from emu3.server.docs_page import CONTENT_SECURITY_POLICY, docs_page
from emu3.server.errors import APIError
from emu3.server.openapi import error_responses
from emu3.server.request_body import check_model
from emu3.server.schemas import Model, ModelList, Status

router = APIRouter(tags=["system"])


@router.get("/v1/models")
def list_models(settings: SettingsDep) -> ModelList:
    """List the model of this server."""
    return ModelList(data=[Model(id=settings.model)])


@router.get("/v1/models/{name:path}")
def retrieve_model(name: str, settings: SettingsDep) -> Model:
    """Describe the model of this server."""
    check_model(name, settings)
    return Model(id=name)


@router.get("/health")
def health() -> Status:
    """Liveness: the process runs."""
    return Status()


@router.get("/ready", responses=error_responses(503))
def ready(engine: EngineDep) -> Status:
    """Readiness: the server accepts requests."""
    if not engine.stats().open:
        raise APIError(503, "the server is stopping", code="closing")
    return Status()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(metrics: MetricsDep) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", response_class=HTMLResponse)
def docs(request: Request) -> HTMLResponse:
    """Return this documentation as a page."""
    return HTMLResponse(
        docs_page(request.app.openapi()),
        headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
    )
