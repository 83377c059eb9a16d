"""Write and read receipts: small JSON files next to the saved videos.

A receipt is named after the idempotency key or the id of its video. If the receipt and the saved video exist, a task
that runs again sends no request and nothing is billed, even after the service has deleted the video.

If the DAG author chose the file name of a video, an owner file is written in addition to the receipt. Several videos
can have the same file name, so the owner file records which of them was saved last.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.exceptions import ToAPIsConnectionError
from airflow_provider_toapis.storage import (
    destination_at,
    destination_in,
    directory_of,
    file_version,
    is_file_name,
    safe_name,
    storage_errors,
    write_text,
)

if TYPE_CHECKING:
    from airflow_provider_toapis.storage import AnyPath

log = logging.getLogger(__name__)

_CHUNK_SIZE = 1024 * 1024
#: Field of a receipt: the modification time or ETag of the file when its hash was last verified.
_FILE_VERSION = "file_version"
#: Longer names of video files are shortened in the names of their owner files, because file systems limit names to 255
#: bytes.
_MAX_READABLE_NAME = 242
_REQUIRED_FIELDS = {"id": str, "output_path": str, "size": int, "sha256": str}
#: Format version of receipts and owner files. Files of another version are ignored.
VERSION = 1


def write_receipt(output_path: str, key: str, result: Mapping[str, Any], ti: Any) -> None:  # noqa: ANN401
    """Write the receipt of a saved video: its result without the URLs, which expire.

    If the file replaced another video, log that. The level is WARNING if another task instance of the same DAG run had
    saved the replaced video, else INFO.

    :param key: The client_business_id of the submission. For a task that submits nothing, its argument ``video_id``.
    :param ti: The task instance that saved the video.
    :raises ToAPIsConnectionError: The receipt cannot be written.
    """
    directory = directory_of(output_path)
    if is_file_name(output_path):
        with storage_errors("output_path", output_path, "a directory with readable files"):
            _record_owner(directory, result, ti)
    _write(directory, key, {**result, "url": None, "urls": []})


def update_receipt(output_path: str, key: str, result: Mapping[str, Any]) -> None:
    """Write the receipt of a saved video again, with further fields of its result.

    :raises ToAPIsConnectionError: The receipt cannot be written.
    """
    _write(directory_of(output_path), key, {**result, "url": None, "urls": []})


def saved_result(output_path: str, key: str) -> dict[str, Any] | None:
    """Return the result that an earlier attempt wrote to the receipt of ``key``.

    Return None if the receipt or the saved file is missing, or if the file has changed since the video was saved.

    :raises ToAPIsFileError: The directory cannot be used, or its files cannot be read.
    :raises ToAPIsConnectionError: The storage cannot be reached right now.
    """
    directory = directory_of(output_path)
    with storage_errors("output_path", output_path, "a directory with readable files"):
        receipt = _read(directory / safe_name(f"{key}.json"))
        if receipt is None:
            return None
        video = directory / receipt["output_path"].rsplit("/", 1)[-1]
        version = receipt.pop(_FILE_VERSION, None)
        if not _is_unchanged(directory, key, video, receipt, version):
            return None
    poster = receipt["poster_path"]
    if isinstance(poster, str):
        # The directory can have been moved since the receipt was written, so only the file name is used.
        poster = str(directory / poster.rsplit("/", 1)[-1])
    return {**receipt, "output_path": str(video), "poster_path": poster}


def _is_unchanged(directory: AnyPath, key: str, video: AnyPath, receipt: dict[str, Any], version: object) -> bool:
    """Return whether a video file is as its receipt describes it. If the version has changed, compare the hash."""
    try:
        found = file_version(video)
        if found == (receipt["size"], version):
            return True
        if found[0] == receipt["size"] and _sha256(video) == receipt["sha256"]:
            if found == file_version(video):
                # Record the version, so that the next check needs no hash. The version cannot be recorded when the file
                # is saved, because another task could save a file under the same name before the receipt is written.
                with suppress(ToAPIsConnectionError):
                    _write(directory, key, {**receipt, _FILE_VERSION: found[1]})
            return True
    except FileNotFoundError:
        return False
    owner = _owner(directory, video.name)
    log.warning(
        "The file %s has changed since video %s was saved there%s. That video is looked up at the service.",
        video,
        receipt["id"],
        f": video {owner['video_id']} was saved over it" if owner and owner["video_id"] != receipt["id"] else "",
    )
    return False


def _record_owner(directory: AnyPath, result: Mapping[str, Any], ti: Any) -> None:  # noqa: ANN401
    name = str(result["output_path"]).rsplit("/", 1)[-1]
    run = {"dag_id": ti.dag_id, "run_id": ti.run_id}
    task = {"task_id": ti.task_id, "map_index": ti.map_index}
    before = _owner(directory, name)
    if before and before["video_id"] != result["id"]:
        if run.items() <= before.items() and not task.items() <= before.items():
            log.warning(
                "Saved video %s over the file of video %s, which the same DAG run had saved. Both videos have the"
                " output_path %s and are billed, but only the later one is still saved. Give each video its own file"
                " name.",
                result["id"],
                before["video_id"],
                result["output_path"],
            )
        else:
            log.info("Saved video %s over the file of the earlier video %s.", result["id"], before["video_id"])
    owner = {"version": VERSION, "video_id": result["id"], "sha256": result["sha256"], **run, **task}
    write_text(destination_at(directory / _owner_file(name)), [json.dumps(owner, indent=2)])


def _owner(directory: AnyPath, name: str) -> dict[str, Any] | None:
    """Return the owner file of a video file; None if it is missing or invalid."""
    try:
        owner = json.loads((directory / _owner_file(name)).read_text())
    except (FileNotFoundError, ValueError):
        return None
    is_owner = isinstance(owner, dict) and owner.get("version") == VERSION and isinstance(owner.get("video_id"), str)
    return owner if is_owner else None


def _owner_file(name: str) -> str:
    safe = safe_name(name)
    if safe != name or len(name) > _MAX_READABLE_NAME:
        # Shorten the safe name, which can be too long. Add a hash, because several files can have the same safe name.
        safe = f"{safe[:60]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return f".{safe}.toapis.json"


def _write(directory: AnyPath, key: str, receipt: Mapping[str, Any]) -> None:
    write_text(destination_in(directory, f"{key}.json"), [json.dumps({"version": VERSION, **receipt}, indent=2)])


def _read(file: AnyPath) -> dict[str, Any] | None:
    try:
        receipt = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("Receipt %s is invalid (%s) and is ignored.", file, type(error).__name__)
        return None
    fields = receipt if isinstance(receipt, dict) else {}
    missing = [name for name, kind in _REQUIRED_FIELDS.items() if not isinstance(fields.get(name), kind)]
    if fields.pop("version", None) != VERSION:
        missing.append(f"version {VERSION}")
    if missing:
        log.warning("Receipt %s is invalid (missing or wrong: %s) and is ignored.", file, ", ".join(missing))
        return None
    return {"client_business_id": None, "media": None, "warnings": [], "poster_path": None, **fields}


def _sha256(file: AnyPath) -> str:
    digest = hashlib.sha256()
    stream: Any
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()
