"""Requests to the pages about videos that must be rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.e2e.videos_site import FORGED_PATHS


@dataclass(frozen=True)
class Attack:
    """A request that must be rejected.

    :param path: Path below ``/toapis/videos/``. ``{shown_videos}`` is the path of the run of the DAG ``shown_videos``,
        and ``{run_id}`` is the id of the run.
    :param user: None is not signed in.
    :param review: Fields of a review that the request sends. The other fields are valid. Default: a GET request.
    """

    path: str
    status: int
    user: str | None = "admin"
    review: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


TASK, BATCH, FORGED = "{shown_videos}/on_disk", "{reviewed_videos}/make_videos", "{forged_videos}"
PAGES = (
    "",
    "spend",
    "spend.csv",
    TASK,
    f"{TASK}/video",
    f"{TASK}/poster",
    f"{TASK}/progress",
    BATCH,
    f"{BATCH}/video?key=redone",
)
OWN, EVIL = {"Sec-Fetch-Site": "same-origin"}, {"Origin": "https://evil.example.com"}


def _review(status: int, *, path: str = BATCH, user: str | None = "admin", **more: Mapping[str, str]) -> Attack:
    return Attack(f"{path}/reviews", status, user, more.get("review", {}), more.get("headers", OWN))


#: The requests, by what they attempt.
ATTACKS = {
    **{f"logged out: {path}": Attack(path, 401, None) for path in (*PAGES, "static/style.css", "static/player.js")},
    **{f"no permission: {path}": Attack(path, 403, "nobody") for path in PAGES},
    "no permission for the DAG in the path": Attack(f"{TASK}/video?dag_id=forged_videos", 403, "nobody"),
    **{
        f"forged {kind}: {name}": Attack(f"{FORGED}/videos/{kind}?video_id={name}", 404)
        for name in FORGED_PATHS
        for kind in ("video", "poster")
    },
    "video in the batch of another DAG": Attack(f"{FORGED}/stolen/video?key=redone", 404),
    "poster in the batch of another DAG": Attack(f"{FORGED}/stolen/poster?key=redone", 404),
    "review of the batch of another DAG": _review(409, path=f"{FORGED}/stolen"),
    "batch outside of the roots": Attack(f"{FORGED}/outside/video?key=passwd", 404),
    "review of a batch outside of the roots": _review(409, path=f"{FORGED}/outside"),
    "run of another DAG": Attack("forged_videos/{run_id}/on_disk/video", 404),
    "any DAG": Attack("~/{run_id}/on_disk/video", 404),
    "upwards in the key": Attack(f"{BATCH}/video?key=..%2Fon_disk", 404),
    "file name as the key": Attack(f"{BATCH}/video?key=redone.mp4", 404),
    "upwards in the path": Attack(f"{TASK}/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
    "upwards from the static files": Attack("static/%2e%2e%2f%2e%2e%2fapp.py", 404),
    "another static file": Attack("static/list.html.jinja", 422),
    "another kind of file": Attack(f"{TASK}/receipt", 422),
    "large map index": Attack(f"{TASK}?map_index=99999999999", 422),
    "another map index": Attack(f"{TASK}/video?map_index=7", 404),
    "long video id": Attack(f"{TASK}/video?video_id={'x' * 501}", 422),
    "review without permission to edit": _review(403, user="viewer"),
    "review without permission to read": _review(403, user="nobody"),
    "review of a logged-out user": _review(401, user=None),
    "review from another site": _review(403, headers=EVIL | {"Sec-Fetch-Site": "cross-site"}),
    "review from another host of this site": _review(403, headers={"Sec-Fetch-Site": "same-site"}),
    "review from another origin": _review(403, headers=EVIL),
    "review from an opaque origin": _review(403, headers={"Origin": "null"}),
    "review from an unknown origin": _review(403, headers={}),
    "review as a form": _review(422, headers=OWN | {"Content-Type": "text/plain"}),
    "review of an outdated video": _review(409, review={"video_id": "video_0"}),
    "review of an unknown row": _review(409, review={"key": "../owner"}),
    "review with another decision": _review(422, review={"decision": "delete"}),
    "review in the name of another user": _review(422, review={"reviewed_by": "boss"}),
    "review with a long comment": _review(422, review={"comment": "x" * 2001}),
    "review of a task that is no batch": _review(409, path=TASK),
    "range after the end": Attack(f"{TASK}/video", 416, headers={"Range": "bytes=9999999999-"}),
}

#: Values of the header ``Range`` that are ignored.
RANGES = {
    "end before begin": "bytes=9-1",
    "another unit": "frames=0-1",
    "no number": "bytes=-",
    "overlapping": "bytes=" + ",".join(["0-"] * 40),
    "thousands": "bytes=" + "0-1," * 5000,
}
