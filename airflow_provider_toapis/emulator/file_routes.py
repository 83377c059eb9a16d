"""Routes that accept uploads, and that serve uploads and finished videos."""

from __future__ import annotations

import functools
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_toapis.emulator.error_bodies import upload_rejected
from airflow_provider_toapis.emulator.middleware import RouteFactory
from airflow_provider_toapis.emulator.service import Service
from airflow_provider_toapis.emulator.uploads import KINDS, UploadKind


def file_routes(service: Service, routes: RouteFactory) -> list[Route]:
    """Return the routes for files. Downloads need no API key, as on the service's file host."""

    async def upload(kind: UploadKind, request: Request) -> Response:
        content = await _uploaded_file(request, kind.max_bytes + 1)
        return JSONResponse({"success": True, "message": "", "data": service.uploads.save(kind, content)})

    async def video(request: Request) -> Response:
        task = service.tasks.get(request.path_params["task_id"])
        if task is None or task.outcome != "completed" or not task.rendering:
            return Response("Not Found", 404, media_type="text/plain")
        return _file(service.renderer.file(task.rendering), "video/mp4", expired=service.tasks.is_expired(task))

    async def uploaded(request: Request) -> Response:
        found = service.uploads.find(request.path_params["name"])
        if found is None:
            return Response("Not Found", 404, media_type="text/plain")
        path, media_type, expired = found
        return _file(path, media_type, expired=expired)

    return [
        *(
            routes.route(f"/v1/uploads/{name}", "upload", functools.partial(upload, kind), method="POST")
            for name, kind in KINDS.items()
        ),
        routes.route("/files/videos/{task_id}/output.mp4", "result", video, public=True),
        routes.route("/files/uploads/1/{name}", "upload_file", uploaded, public=True),
        routes.route("/files/uploads/1/{directory}/{name}", "upload_file", uploaded, public=True),
    ]


async def _uploaded_file(request: Request, max_bytes: int) -> bytes:
    """Return the first ``max_bytes`` bytes of the form field ``file``."""
    try:
        async with request.form() as form:
            file = form.get("file")
            if isinstance(file, UploadFile):
                return await file.read(max_bytes)
    except MultiPartException:
        pass
    raise upload_rejected("file is required, as multipart/form-data")


def _file(path: Path, media_type: str, *, expired: bool) -> Response:
    if expired:
        return Response("Forbidden: this link has expired", 403, media_type="text/plain")
    return FileResponse(path, media_type=media_type, stat_result=path.stat())
