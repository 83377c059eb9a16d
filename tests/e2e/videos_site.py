"""A real Airflow with saved, failed, unfinished, reviewed and forged videos, for tests of the pages about videos."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from dev.airflow.airflow_instance import AirflowInstance
from tests.catalog_entries import entry
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import API_KEY, EmulatorProcess
from tests.integration.storages import aws_connection, s3_client_at, s3_server

DAG_FILE = Path(__file__).parent / "dags" / "shown_videos.py"
#: Roles of the users. ``editor`` can edit DAGs, ``viewer`` can only read them.
USERS = {"admin": "admin", "editor": "user", "viewer": "viewer", "nobody": ""}
BUCKET = "videos"
#: A text that is dangerous in HTML, in JavaScript and in a template.
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7 * 7 }}\u202e"
#: Keys of the rows of the batch.
APPROVED, REDONE, HOSTILE_KEY = "approved", "redone", f"<b>{'k' * 40}\"'&"
KEYS = (APPROVED, REDONE, HOSTILE_KEY, "unchanged")
#: Percent that the service reports of the video in progress. If a video is almost ready, it is polled often.
PROGRESS = 95
#: Number of rows in the largest manifest.
MANY_ROWS = 10_000
#: First line of a file that no page may show, and a part of a signed URL.
ROOT_USER, SIGNATURE = "root:x:0:0", "X-Amz-Signature=0badc0de"
#: Paths and URIs that the author of a DAG has forged, by video id. ``{media}`` is a directory whose files are served.
FORGED_PATHS = {
    "absolute": "/etc/passwd",
    "relative": "{media}/../../../../../../../../etc/passwd",
    "symlink": "{media}/passwd.mp4",
    "file_uri": "file:///etc/passwd",
    "text": "{media}/passwd.txt",
    "owner": "{media}/catalog/.manifest/owner.json",
    "directory": "{media}/catalog",
    "other_bucket": "s3://other-bucket/x.mp4",
    "bucket_with_prefix": f"s3://aws_default@{BUCKET}-other/x.mp4",
    "other_connection": f"s3://other_default@{BUCKET}/made/in_bucket.mp4",
    "upwards_in_bucket": f"s3://aws_default@{BUCKET}/../other-bucket/x.mp4",
    "missing_in_bucket": f"s3://aws_default@{BUCKET}/x.mp4",
    "memory": "memory://x.mp4",
    "internal_url": "http://127.0.0.1:1/x.mp4",
}
#: States of the tasks when the site is ready.
STATES = {
    "shown_videos": {"on_disk": "success", "in_bucket": "success", "in_progress": "deferred", "failing": "failed"},
    "reviewed_videos": {"make_videos": "success"},
    "forged_videos": dict.fromkeys(("videos", "stolen", "outside", "large"), "success"),
}


@dataclass(frozen=True)
class Site:
    """The Airflow with its runs, one of each DAG.

    :param slow: The service of the video in progress.
    :param media: The directory whose files are served.
    :param configurations: Configurations of the runs.
    """

    airflow: AirflowInstance
    emulator: EmulatorProcess
    slow: EmulatorProcess
    media: Path
    configurations: Mapping[str, Mapping[str, Any]]
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def catalog(self) -> Path:
        """The directory of the batch."""
        return self.media / "catalog"

    def path(self, dag_id: str, *more: str) -> str:
        """Return the path of something about the run of a DAG."""
        return "/toapis/videos/" + "/".join(quote(name, safe="") for name in (dag_id, self.runs[dag_id].run_id, *more))

    def client(self, user: str | None) -> httpx.Client:
        """Return an HTTP client with the session of a user. None is not signed in."""
        cookies = {} if user is None else {"_token": self.airflow.token(user)}
        return httpx.Client(base_url=self.airflow.url, cookies=cookies, trust_env=False, timeout=60)

    def wait_for_states(self, dag_id: str, expected: Mapping[str, str]) -> None:
        """Wait until the tasks of a run have these states."""
        deadline = time.monotonic() + 240
        while (states := self._states(dag_id)) != expected:
            assert time.monotonic() < deadline, f"{states}\n{self.airflow.component_log('scheduler')}"
            time.sleep(0.5)

    def _states(self, dag_id: str) -> dict[str, str]:
        instances = self.airflow.task_instances(dag_id, self.runs[dag_id].run_id)
        return {instance["task_id"]: instance["state"] for instance in instances}

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the lines of the batch's manifest, by key."""
        lines = (self.catalog / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["key"]: row for row in map(json.loads, lines)}


@contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    """Run Airflow and all DAGs, at the same time because most of their time is waiting."""
    dags, media = directory / "dags", directory / "media"
    dags.mkdir()
    media.mkdir()
    shutil.copy(DAG_FILE, dags)
    options: dict[str, Any] = {"latency_spread": 0, "submit_rps": 0, "query_rps": 0}
    with (
        s3_server() as s3_url,
        EmulatorProcess(latency=3, **options) as emulator,
        EmulatorProcess(latency=3600, **options) as slow,
    ):
        s3_client_at(s3_url).create_bucket(Bucket=BUCKET)
        aws = aws_connection(s3_url)
        connections = {
            "toapis_default": {"conn_type": "toapis", "host": emulator.url, "password": API_KEY},
            "toapis_slow": {"conn_type": "toapis", "host": slow.url, "password": API_KEY},
            "aws_default": aws | {"extra": json.dumps(aws["extra"])},
        }
        environment = {
            "AIRFLOW__TOAPIS__MEDIA_ROOTS": f"{media}, s3://aws_default@{BUCKET}",
            # On a busy machine, the first request of a worker takes longer than the default.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        }
        slow.add_fault(on="status", kind="task_status", value="in_progress", progress=PROGRESS, times=-1)
        emulator.add_fault(on="submit", kind="task_failed", match="falls over", message="It fell.", times=-1)
        with AirflowInstance(
            directory / "home", dags, connections=connections, users=USERS, environment=environment
        ) as airflow:
            site = Site(airflow, emulator, slow, media, _configurations(media, emulator))
            for dag_id, configuration in site.configurations.items():
                site.runs[dag_id] = Run(airflow, dag_id, airflow.trigger(dag_id, configuration), media)
            for dag_id, states in STATES.items():
                site.wait_for_states(dag_id, states)
            yield site


def _configurations(media: Path, emulator: EmulatorProcess) -> dict[str, dict[str, Any]]:
    image = {"image": emulator.get("/shop/products").json()["products"][0]["image"]}
    feed = media / "feed.jsonl"
    rows = [{"key": key, "prompt": f"It glides: {key}", **image} for key in KEYS]
    feed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {
        "reviewed_videos": {"feed": str(feed), "directory": str(media / "catalog")},
        "shown_videos": image
        | {"directory": str(media), "bucket": f"s3://aws_default@{BUCKET}/made"}
        | {"failing": f"It falls over {HOSTILE}", "identity": HOSTILE},
        "forged_videos": _forged_xcoms(media),
    }


def _forged_xcoms(media: Path) -> dict[str, dict[str, Any]]:
    """Return the XComs of the tasks of ``forged_videos``, by task id."""
    (media / "passwd.txt").write_text(f"{ROOT_USER} is not a video", encoding="utf-8")
    (media / "passwd.mp4").symlink_to("/etc/passwd")
    paths = {name: path.format(media=media) for name, path in FORGED_PATHS.items()}
    texts = dict.fromkeys(("status", "model", "identity", "client_business_id", "reason", "submitted_at"), HOSTILE)
    urls = {"url": "javascript:alert(3)", "urls": [f"https://cdn.example.com/x.mp4?{SIGNATURE}"]}
    _write_large_batch(media / "large")
    return {
        "videos": {
            "toapis_video": [
                {"id": name, "generation": 0, "output_path": path, **texts} for name, path in paths.items()
            ],
            "return_value": [
                {"id": name, "output_path": path, "poster_path": path, "warnings": [HOSTILE], **urls}
                for name, path in paths.items()
            ],
        },
        "stolen": {"toapis_batch": {"output_path": str(media / "catalog"), "saved": len(KEYS)}},
        "outside": {"toapis_batch": {"output_path": "/etc", "reason": HOSTILE, "saved": -1}},
        "large": {"toapis_batch": {"output_path": str(media / "large"), "saved": MANY_ROWS}},
    }


def _write_large_batch(directory: Path) -> None:
    manifest = Manifest(Directory(str(directory)))
    for number in range(MANY_ROWS):
        manifest.update(entry(f"key-{number:05}", row=number, prompt=HOSTILE))
    manifest.flush()
    owner = {"version": 1, "dag_id": "forged_videos", "task_id": "large"}
    (directory / ".manifest" / "owner.json").write_text(json.dumps(owner), encoding="utf-8")
