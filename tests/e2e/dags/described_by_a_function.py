"""Videos that a function describes in words of its own each time; it notes when it is asked."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import dag, task


@dag(schedule=None, catchup=False, params={"products": [], "output_folder": ""})
def described_by_a_function() -> None:
    @task
    def read_products(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        assert params
        return list(params["products"])

    @task.toapis_video(deferrable=True, poll_interval=5, duration=10, retries=0)
    def make_video(product: dict[str, Any], folder: str) -> dict[str, Any]:
        words = f"The camera slowly moves in, take {uuid.uuid4()}"
        Path(folder).mkdir(parents=True, exist_ok=True)
        with Path(folder, "calls.txt").open("a", encoding="utf-8") as calls:
            print(product["sku"], words, sep=": ", file=calls)
        return {
            "prompt": words,
            "image": product["image"],
            "identity": product["sku"],
            "output_path": Path(folder, f"{product['sku']}.mp4"),
        }

    @task
    def read_path(path: str) -> str:
        return path

    read_path.expand(
        path=make_video.partial(folder="{{ params.output_folder }}")
        .expand(product=read_products())
        .map(lambda video: video["output_path"])
    )


described_by_a_function()
