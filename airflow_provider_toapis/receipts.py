"""Receipts: a small JSON file beside each kept video says which order it answers.

With the receipt there, and the file there at the right size, a task that runs again asks nothing and pays nothing,
also when the service has long forgotten the video.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from airflow_provider_toapis.api.errors import ToAPIsFileError
from airflow_provider_toapis.storage import destination, directory_of, safe_name, write_text

log = logging.getLogger(__name__)


def write_receipt(output_path: str, order: str, result: Mapping[str, Any]) -> None:
    """Write the receipt of a kept video: its result, less the links, which die.

    :param order: What the task goes by: the client_business_id of its order, or the video's id where it ordered none.
    """
    receipt = {**result, "url": None, "urls": []}
    write_text(destination(f"{directory_of(output_path)}/", f"{order}.json"), [json.dumps(receipt, indent=2)])


def kept_result(output_path: str, order: str) -> dict[str, Any] | None:
    """Return what an earlier attempt kept for this order; None without a receipt or without its whole file.

    :raises ToAPIsFileError: The folder cannot be used, or its files cannot be read.
    """
    directory = directory_of(output_path)
    receipt_file = directory / safe_name(f"{order}.json")
    try:
        receipt = json.loads(receipt_file.read_text())
        video = directory / str(receipt["output_path"]).rsplit("/", 1)[-1]
        size = video.stat().st_size
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ToAPIsFileError.for_field("output_path", output_path, "a folder whose files can be read") from error
    except (ValueError, KeyError, TypeError) as error:
        log.warning("The receipt %s is not readable (%s) and is ignored.", receipt_file, type(error).__name__)
        return None
    return dict(receipt) if size == receipt.get("size") else None
