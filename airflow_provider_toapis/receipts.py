"""Receipts: a small JSON file beside each kept video says which key it answers.

With the receipt there, and the very file that it names, a task that runs again asks nothing and pays nothing, also when
the service has long forgotten the video. Beside a file whose name the author chose is a second one: it names the video
that was saved there last, because several videos may be given the same name.
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
#: Of a receipt: the modification time or ETag with which the file last had the receipt's hash.
_FILE_VERSION = "file_version"
#: Bytes of a file name that become part of another one, which file systems limit to 255.
_MAX_READABLE_NAME = 242
_REQUIRED_FIELDS = {"id": str, "output_path": str, "size": int, "sha256": str}
#: Of receipts and owner files. A file of another version is ignored.
VERSION = 1


def write_receipt(output_path: str, key: str, result: Mapping[str, Any], ti: Any) -> None:  # noqa: ANN401
    """Write the receipt of a kept video: its result, less the links, which die.

    Logs when the file was another video's: a warning where the same DAG run saved that one.

    :param key: What the task goes by: the client_business_id of its key, or the video's id where it ordered none.
    :param ti: The task instance that saved it.
    :raises ToAPIsConnectionError: It cannot be written.
    """
    directory = directory_of(output_path)
    if is_file_name(output_path):
        with storage_errors("output_path", output_path, "a directory whose files can be read"):
            _record_owner(directory, result, ti)
    _write(directory, key, {**result, "url": None, "urls": []})


def saved_result(output_path: str, key: str) -> dict[str, Any] | None:
    """Return what an earlier attempt kept for this key; None without a receipt or without the file that it names.

    :raises ToAPIsFileError: The folder cannot be used, or its files cannot be read.
    :raises ToAPIsConnectionError: Its storage is in trouble.
    """
    directory = directory_of(output_path)
    with storage_errors("output_path", output_path, "a folder whose files can be read"):
        receipt = _read(directory / safe_name(f"{key}.json"))
        if receipt is None:
            return None
        video = directory / receipt["output_path"].rsplit("/", 1)[-1]
        version = receipt.pop(_FILE_VERSION, None)
        if not _is_unchanged(directory, key, video, receipt, version):
            return None
    return {**receipt, "output_path": str(video)}


def _is_unchanged(directory: AnyPath, key: str, video: AnyPath, receipt: dict[str, Any], version: object) -> bool:
    """Whether a file is the one that its receipt names. Where its version is another one, the hash decides."""
    try:
        found = file_version(video)
        if found == (receipt["size"], version):
            return True
        if found[0] == receipt["size"] and _sha256(video) == receipt["sha256"]:
            if found == file_version(video):
                # The next time the version will do. Not noted when the file is saved: until then another task may have
                # saved its own under the same name.
                with suppress(ToAPIsConnectionError):
                    _write(directory, key, {**receipt, _FILE_VERSION: found[1]})
            return True
    except FileNotFoundError:
        return False
    owner = _owner(directory, video.name)
    log.warning(
        "The file %s does not hold video %s any more%s. The video is looked for at the service.",
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
                "Saved video %s over the file of video %s, which the same DAG run saved: both have the output_path %s."
                " Both are billed, and only the later one is there. Give each video a file name of its own.",
                result["id"],
                before["video_id"],
                result["output_path"],
            )
        else:
            log.info("Saved video %s over the file of the earlier video %s.", result["id"], before["video_id"])
    owner = {"version": VERSION, "video_id": result["id"], "sha256": result["sha256"], **run, **task}
    write_text(destination_at(directory / _owner_file(name)), [json.dumps(owner, indent=2)])


def _owner(directory: AnyPath, name: str) -> dict[str, Any] | None:
    """Return which video was saved under a name last; None where that is not known."""
    try:
        owner = json.loads((directory / _owner_file(name)).read_text())
    except (FileNotFoundError, ValueError):
        return None
    is_owner = isinstance(owner, dict) and owner.get("version") == VERSION and isinstance(owner.get("video_id"), str)
    return owner if is_owner else None


def _owner_file(name: str) -> str:
    safe = safe_name(name)
    if safe != name or len(name) > _MAX_READABLE_NAME:
        # The safe name can be too long, or the same for several files.
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
        log.warning("The receipt %s is not readable (%s) and is ignored.", file, type(error).__name__)
        return None
    needed = receipt if isinstance(receipt, dict) else {}
    missing = [name for name, kind in _REQUIRED_FIELDS.items() if not isinstance(needed.get(name), kind)]
    if needed.pop("version", None) != VERSION:
        missing.append(f"version {VERSION}")
    if missing:
        log.warning("The receipt %s is not readable (no %s) and is ignored.", file, " and no ".join(missing))
        return None
    return {"client_business_id": None, **needed}


def _sha256(file: AnyPath) -> str:
    digest = hashlib.sha256()
    stream: Any
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_SIZE):
            digest.update(chunk)
    return digest.hexdigest()
