"""The HTML of the pages. Everything that a page shows is untrusted: the templates escape all values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.batch.report import visible
from airflow_provider_toapis.ui.batches import ROWS_PER_PAGE
from airflow_provider_toapis.ui.media import is_served
from airflow_provider_toapis.ui.queries import IN_PROGRESS, SAVED, STATES
from airflow_provider_toapis.ui.records import Result
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_4_PLUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_provider_toapis.ui.batches import BatchRow, FoundRows
    from airflow_provider_toapis.ui.queries import Filters, TaskVideos
    from airflow_provider_toapis.ui.records import Generation

_MINUTE, _HOUR = 60, 3600
#: Fields of a result that are not shown, because result URLs are signed.
_HIDDEN = ("url", "urls")
#: Maximum number of characters of a result that are shown as JSON.
_MAX_JSON = 200_000


@dataclass(frozen=True)
class Addresses:
    """Addresses of the pages.

    :param root: Path of the list of videos, without a slash at its end.
    :param airflow: Path of Airflow's own UI, without a slash at its end.
    """

    root: str
    airflow: str

    def task(self, videos: TaskVideos, *more: str, **query: str) -> str:
        """Return the address of a task instance's page, or of something below it.

        :param more: Further segments of the path.
        """
        names = (videos.dag_id, videos.run_id, videos.position.task_id, *more)
        position = videos.position
        loop = {"ti": str(position.ti_id)} if AIRFLOW_V_3_4_PLUS else {}
        query = {"map_index": str(position.map_index)} | loop | query
        return f"{self.root}/{'/'.join(map(_quoted, names))}?{_query(query)}"

    def task_instance(self, videos: TaskVideos) -> str:
        """Return the address of a task instance in Airflow's own UI."""
        names = map(_quoted, (videos.dag_id, videos.run_id, videos.position.task_id))
        mapped = "" if videos.position.map_index < 0 else f"/mapped/{videos.position.map_index}"
        return "{}/dags/{}/runs/{}/tasks/{}{}".format(self.airflow, *names, mapped)


@dataclass(frozen=True)
class Media:
    """What a page plays or shows.

    :param title: Name of the video for screen readers.
    :param player: Address of the video; None if it cannot be played here.
    :param poster: Address of the poster or of the source image; None without one.
    :param nothing: The text that is shown without both.
    """

    title: str
    player: str | None
    poster: str | None
    nothing: str


@dataclass(frozen=True)
class Card:
    """How a page shows a task instance.

    :param title: Label of a mapped task instance, else the identity, the file name or the key.
    :param note: How long a video has been in progress, or how long its result URL is valid.
    :param progress: Address of the progress; None if the video is not in progress.
    :param counts: Numbers of rows of a batch, each with its state.
    """

    videos: TaskVideos
    title: str
    media: Media
    result: Result
    note: str
    progress: str | None
    reason: str | None
    cost: str | None
    counts: str
    page: str
    task_instance: str

    @property
    def state(self) -> str:
        """The state of the task instance."""
        return self.videos.state


def list_page(
    found: Sequence[TaskVideos], filters: Filters, *, has_more: bool, addresses: Addresses, chosen: dict[str, str]
) -> str:
    """Return the page with the list.

    :param chosen: The fields of the filter form, as they are in the address of the page.
    """
    return _rendered(
        "list",
        addresses,
        cards=[_card(videos, addresses) for videos in found],
        chosen=chosen,
        states=STATES,
        more=f"{addresses.root}/?{_query(chosen | {'after': str(found[-1].position)})}" if has_more else None,
        is_filtered=filters != type(filters)(),
    )


def task_page(videos: TaskVideos, addresses: Addresses) -> str:
    """Return the page of a task instance that makes or downloads videos."""
    costs = [generation.cost_usd for generation in videos.generations if generation.cost_usd is not None]
    submitted = [generation for generation in videos.generations if generation.generation is not None]
    prompt = videos.rendered.get("prompt")
    return _rendered(
        "task",
        addresses,
        card=_card(videos, addresses),
        shown=[
            (generation, videos.result_of(generation), _media(videos, generation, addresses))
            for generation in reversed(videos.generations)
        ],
        prompt=prompt if isinstance(prompt, str) else None,
        image=_source_image(videos),
        total=_usd(sum(costs)) if costs else None,
        is_total_known=len(costs) >= len(submitted),
        text=_json(videos.returned),
        facts=_facts,
    )


def batch_page(
    videos: TaskVideos,
    found: FoundRows,
    chosen: Mapping[str, str],
    addresses: Addresses,
    *,
    problem: str,
    can_review: bool,
) -> str:
    """Return the page of a batch.

    :param chosen: The state, the search text and the number of the page.
    :param problem: Why the rows cannot be shown; empty if they can be shown.
    :param can_review: Whether the user can review videos.
    """
    page = int(chosen["page"])
    has_more = found.number > page * ROWS_PER_PAGE
    return _rendered(
        "batch",
        addresses,
        card=_card(videos, addresses),
        rows=[(row, _row_media(videos, row, addresses)) for row in found.rows],
        found=found,
        chosen=chosen,
        earlier=addresses.task(videos, **{**chosen, "page": str(page - 1)}) if page > 1 else None,
        more=addresses.task(videos, **{**chosen, "page": str(page + 1)}) if has_more else None,
        reviews=addresses.task(videos, "reviews"),
        problem=problem,
        can_review=can_review,
        facts=_facts,
    )


def missing_page(addresses: Addresses) -> str:
    """Return the page of a task instance that has recorded no video."""
    return _rendered("missing", addresses)


def _card(videos: TaskVideos, addresses: Addresses) -> Card:
    newest, batch = videos.newest, videos.batch
    path = batch.output_path if batch else newest.output_path
    name = path.rstrip("/").rpartition("/")[2] if path else None
    known = (videos.label, newest.identity, name, newest.client_business_id, newest.id, videos.position.task_id)
    costs = [cost for generation in videos.generations if (cost := generation.cost_usd) is not None]
    cost = batch.cost_usd if batch else sum(costs) if costs else None
    return Card(
        videos=videos,
        title=next(filter(None, known)),
        media=_media(videos, newest, addresses),
        result=videos.result_of(newest),
        note=_note(videos),
        progress=addresses.task(videos, "progress") if videos.task_state == "deferred" and not batch else None,
        reason=batch.reason if batch else newest.reason,
        cost=None if cost is None else _usd(cost),
        counts=_counts(videos),
        page=addresses.task(videos),
        task_instance=addresses.task_instance(videos),
    )


def _counts(videos: TaskVideos) -> str:
    batch = videos.batch
    if batch is None:
        return ""
    names = ("saved", "unchanged", "submitted", "pending", "failed", "rejected", "postponed")
    return ", ".join(f"{number:,} {name}" for name in names if (number := getattr(batch, name)))


def _media(videos: TaskVideos, generation: Generation, addresses: Addresses) -> Media:
    result = videos.result_of(generation)
    path = result.output_path or generation.output_path
    player = _player(videos, generation, path, addresses)
    poster = _source_image(videos)
    if is_served(result.poster_path) and generation.id:
        poster = addresses.task(videos, "poster", video_id=generation.id)
    nothing = "Batch" if videos.batch else "The file is not below [toapis] media_roots" if path else "No video"
    return Media(generation.id or "", player, poster, nothing)


def _player(videos: TaskVideos, generation: Generation, path: str | None, addresses: Addresses) -> str | None:
    if generation.id and is_served(path):
        return addresses.task(videos, "video", video_id=generation.id)
    result = videos.result_of(generation)
    return result.url if result.url and (_seconds_left(result) or 0) > 0 else None


def _row_media(videos: TaskVideos, row: BatchRow, addresses: Addresses) -> Media:
    key = row.entry.key
    return Media(
        key,
        addresses.task(videos, "video", key=key) if is_served(row.video_path) else None,
        addresses.task(videos, "poster", key=key) if is_served(row.poster_path) else row.image,
        "No video",
    )


def _source_image(videos: TaskVideos) -> str | None:
    """Return the URL of the first source image; None if it is not on the web."""
    image = videos.rendered.get("image")
    images = image if isinstance(image, list) else [image]
    return next((url for url in images if isinstance(url, str) and is_url(url)), None)


def _json(returned: Any) -> str:  # noqa: ANN401 - any JSON
    """Return the beginning of a result as JSON. For most results, that is all of it."""
    try:
        pieces = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(_shown(returned))
        return "".join(islice(pieces, _MAX_JSON))[:_MAX_JSON]
    except RecursionError:
        return "The result is nested too deeply to be shown."


def _shown(returned: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(returned, list):
        return [_shown(item) for item in returned]
    if isinstance(returned, dict):
        return {name: _shown(value) for name, value in returned.items() if name not in _HIDDEN}
    return returned


def _seconds_left(result: Result) -> float | None:
    expires = _time_of(result.expires_at)
    return None if expires is None else expires.timestamp() - clock.time()


def _time_of(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _note(videos: TaskVideos) -> str:
    if videos.state == IN_PROGRESS:
        begun = _time_of(videos.newest.submitted_at) or videos.started_at or videos.recorded_at
        status = videos.newest.status or "in progress"
        if status == "failed":
            return "The video failed. The task is tried again."
        return f"{status}, for {_duration(clock.time() - begun.timestamp())}"
    result = videos.result_of(videos.newest)
    left = _seconds_left(result)
    if videos.state == SAVED or result.url is None or left is None:
        return ""
    return f"URL expires in {_duration(left)}" if left > 0 else "URL has expired"


def _facts(media: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - `Facts` or `MediaFacts`
    """Return the measured facts of a video, each with its name."""
    if media is None:
        return []
    size = f"{int(media.width)} x {int(media.height)}" if media.width and media.height else ""
    facts = {
        "Length": "" if media.duration is None else f"{media.duration:.2f} s",
        "Size": size,
        "Frames per second": f"{media.fps:g}" if media.fps else "",
        "Codec": media.video_codec or "",
        "Audio": "" if media.has_audio is None else "yes" if media.has_audio else "no",
    }
    return [(name, value) for name, value in facts.items() if value]


def _duration(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{max(0, seconds):.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.0f} h"


def _usd(amount: float) -> str:
    return f"${amount:,.2f}" if round(amount, 2) == amount else f"${amount:,.4f}"


def _moment(moment: datetime | str | None) -> str:
    if isinstance(moment, str):
        moment = _time_of(moment)
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="replace")


def _query(fields: Mapping[str, str]) -> str:
    return urlencode(fields, errors="replace")


def _rendered(name: str, addresses: Addresses, **values: Any) -> str:  # noqa: ANN401
    return str(environment().get_template(f"{name}.html.jinja").render(root=addresses.root, **values))


@cache
def environment() -> Environment:
    """Return the environment of the templates. It escapes all values."""
    created = Environment(
        loader=PackageLoader("airflow_provider_toapis.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    created.filters["time"] = _moment
    created.filters["usd"] = _usd
    return created
