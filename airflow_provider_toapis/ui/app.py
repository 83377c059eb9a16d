"""Routes of the pages. Each requires a signed-in user with Airflow's own permission for the DAG."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from airflow.providers.common.compat.sdk import conf
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from airflow_provider_toapis.batch.manifest_entry import Review
from airflow_provider_toapis.links.video import MAP_INDEX, VIDEOS_PATH
from airflow_provider_toapis.ui.batches import BatchRows, BatchUnavailableError, FoundRows, ReviewRejectedError
from airflow_provider_toapis.ui.media import Kind, serve
from airflow_provider_toapis.ui.pages import Addresses, batch_page, list_page, missing_page, task_page
from airflow_provider_toapis.ui.progress import progress_of
from airflow_provider_toapis.ui.queries import (
    STATES,
    Filters,
    Position,
    TaskVideos,
    find_one,
    find_page,
    has_videos,
    parse_day,
)
from airflow_provider_toapis.ui.records import Generation
from airflow_provider_toapis.ui.spend_page import export_spend, show_spend

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' https: http:;"
    " media-src 'self' https: http:; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_MEDIA_TYPES = {"style.css": "text/css", "player.js": "text/javascript"}

_may_read = [
    Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
    Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE)),
]
_Text = Annotated[str | None, Query(max_length=500)]


def _map_index(value: object) -> object:
    # Airflow's UI replaces the placeholder in the address of a tab only if the task is mapped.
    return -1 if value == MAP_INDEX else value


_MapIndex = Annotated[int, Query(ge=-1, le=2**31 - 1), BeforeValidator(_map_index)]


def _find(  # noqa: PLR0917
    session: SessionDep, dag_id: str, run_id: str, task_id: str, map_index: _MapIndex = -1, ti: _Text = None
) -> TaskVideos | None:
    return find_one(session, dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index, ti_id=ti)


def _require(videos: Annotated[TaskVideos | None, Depends(_find)]) -> TaskVideos:
    if videos is None:
        raise HTTPException(404, "This task instance has recorded no video.")
    return videos


_Videos = Annotated[TaskVideos, Depends(_require)]


class NewReview(BaseModel):
    """A review that a page sends.

    :param key: Key of the row.
    :param video_id: The video that the reviewer saw.
    :param comment: What must change.
    """

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=500)
    video_id: str = Field(min_length=1, max_length=500)
    decision: Literal["approve", "redo"]
    comment: str = Field("", max_length=2000)


def videos_app() -> FastAPI:
    """Return the application with the pages. It is mounted at ``VIDEOS_PATH``."""
    app = FastAPI(title="ToAPIs videos", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_with_headers)
    app.exception_handler(RequestValidationError)(_reject)
    app.get("/", dependencies=_may_read)(show_list)
    app.get("/spend", dependencies=_may_read)(show_spend)
    app.get("/spend.csv", dependencies=_may_read)(export_spend)
    app.get("/static/{name}", dependencies=[Depends(get_user)])(send_static_file)
    app.get("/{dag_id}/{run_id}/{task_id}", dependencies=_may_read)(show_task)
    app.get("/{dag_id}/{run_id}/{task_id}/progress", dependencies=_may_read)(send_progress)
    app.get("/{dag_id}/{run_id}/{task_id}/{kind}", dependencies=_may_read)(send_media)
    may_edit = [Depends(_require_same_origin), *_may_read, Depends(requires_access_dag("PUT"))]
    app.post("/{dag_id}/{run_id}/{task_id}/reviews", dependencies=may_edit)(add_review)
    return app


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    # A database can reject NUL characters.
    has_nul = "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]
    response = Response(status_code=400) if has_nul else await call_next(request)
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def _reject(_: Request, error: RequestValidationError) -> Response:
    # The handler of FastAPI repeats the input, which it cannot always encode.
    fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
    return JSONResponse({"detail": f"Invalid: {_encodable(fields)}."}, 422)


def _require_same_origin(request: Request) -> None:
    """Reject a request that another site's page has sent with the user's cookie.

    :raises HTTPException: 403: the request does not come from a page of this API server.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    own = {request.headers.get("host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc} - {None, ""}
    is_own = site == "same-origin" if site else origin.partition("://")[2] in own
    if not is_own:
        raise HTTPException(403, "This request does not come from a page of this API server.")


def show_list(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    session: SessionDep,
    user: GetUserDep,
    dag_id: _Text = None,
    run_id: _Text = None,
    task_id: _Text = None,
    state: _Text = None,
    model: _Text = None,
    day: _Text = None,
    search: _Text = None,
    after: _Text = None,
) -> HTMLResponse:
    """Show a page of the list of videos."""
    fields = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "state": state, "model": model, "search": search}
    chosen = _filled(fields)
    if chosen.get("state") not in STATES:
        chosen.pop("state", None)
    filters = Filters(**chosen, day=parse_day(day))
    if filters.day:
        chosen["day"] = filters.day.isoformat()
    # The dependency of Airflow's own lists needs the state of Airflow's application, which this one does not have.
    readable = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    found, has_more = find_page(session, readable, filters, Position.parse(after or ""))
    return HTMLResponse(list_page(found, filters, has_more=has_more, addresses=_addresses(request), chosen=chosen))


def show_task(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    session: SessionDep,
    user: GetUserDep,
    videos: Annotated[TaskVideos | None, Depends(_find)],
    dag_id: str,
    run_id: str,
    task_id: str,
    map_index: _MapIndex = -1,
    state: _Text = None,
    search: _Text = None,
    page: Annotated[int, Query(ge=1, le=10**6)] = 1,
) -> Response:
    """Show one task instance: its videos, or the rows of its batch. For a mapped task, list its task instances."""
    addresses = _addresses(request)
    if videos is None:
        if map_index < 0 and has_videos(session, Filters(dag_id, run_id, task_id)):
            query = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
            return RedirectResponse(f"{addresses.root}/?{urlencode(query)}")
        return HTMLResponse(missing_page(addresses), 404)
    if videos.batch is None:
        return HTMLResponse(task_page(videos, addresses))
    chosen = _filled({"state": state, "search": search})
    found, problem = FoundRows(), ""
    try:
        found = BatchRows(videos).find(chosen.get("state"), chosen.get("search"), page)
    except BatchUnavailableError as error:
        problem = str(error)
    can_review = get_auth_manager().is_authorized_dag(method="PUT", details=DagDetails(id=videos.dag_id), user=user)
    chosen["page"] = str(page)
    return HTMLResponse(batch_page(videos, found, chosen, addresses, problem=problem, can_review=can_review))


def send_progress(session: SessionDep, videos: _Videos) -> dict[str, Any]:
    """Send what the service reports about a video in progress."""
    progress = progress_of(session, videos)
    return {} if progress is None else asdict(progress)


def send_media(  # noqa: PLR0917
    videos: _Videos,
    kind: Kind,
    video_id: _Text = None,
    key: _Text = None,
    requested_range: Annotated[str | None, Header(alias="range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """Send a saved video or a poster of a task instance.

    :param video_id: Id of a video of the task instance.
    :param key: Key of a row of the batch.
    """
    path = _row_path(videos, key, kind) if key else _path(videos, video_id, kind)
    # No response has an ETag, so `if_range` cannot match.
    return serve(path, kind, requested_range if if_range is None else None)


def add_review(user: GetUserDep, videos: _Videos, new: NewReview) -> dict[str, str]:
    """Record what a reviewer decided about a video of a batch."""
    review = partial(
        Review, new.decision, new.video_id, _encodable(new.comment.strip()), reviewed_by=_encodable(user.get_name())
    )
    try:
        BatchRows(videos).add_review(new.key, review)
    except BatchUnavailableError as error:
        raise HTTPException(409, f"The review was not saved. {error}") from error
    except ReviewRejectedError:
        raise HTTPException(409, "The review was not saved: the row has another video now. Reload the page.") from None
    return {"decision": new.decision}


def send_static_file(name: Literal["style.css", "player.js"]) -> Response:
    """Send the style sheet or the script of the pages."""
    content = resources.files(__package__).joinpath("templates", name).read_bytes()
    return Response(content, media_type=_MEDIA_TYPES[name], headers={"Cache-Control": "private, max-age=300"})


def _path(videos: TaskVideos, video_id: str | None, kind: Kind) -> str | None:
    known = {generation.id: generation for generation in videos.generations}
    generation = known.get(video_id, Generation()) if video_id else videos.newest
    result = videos.result_of(generation)
    return result.poster_path if kind == "poster" else result.output_path or generation.output_path


def _row_path(videos: TaskVideos, key: str, kind: Kind) -> str | None:
    try:
        row = BatchRows(videos).row(key)
    except BatchUnavailableError as error:
        raise HTTPException(404, "This file is not served.") from error
    return None if row is None else row.poster_path if kind == "poster" else row.video_path


def _addresses(request: Request) -> Addresses:
    root = str(request.scope.get("root_path", "")).rstrip("/")
    return Addresses(root, root.removesuffix(VIDEOS_PATH))


def _filled(fields: dict[str, str | None]) -> dict[str, str]:
    return {name: value.strip() for name, value in fields.items() if value and value.strip()}


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can contain but a file cannot."""
    return text.encode(errors="replace").decode()
