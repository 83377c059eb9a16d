"""Videos whose requests a function returns. Each call of the function returns a new prompt and is logged."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import dag, task


@dag(schedule=None, catchup=False, params={"products": [], "output_directory": ""})
def described_by_a_function() -> None:
    @task
    def read_products(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        assert params
        return list(params["products"])

    @task.toapis_video(deferrable=True, poll_interval=5, duration=10, retries=0)
    def make_video(product: dict[str, Any], directory: str) -> dict[str, Any]:
        prompt = f"The camera slowly moves in, call {uuid.uuid4()}"
        Path(directory).mkdir(parents=True, exist_ok=True)
        with Path(directory, "calls.txt").open("a", encoding="utf-8") as calls:
            print(product["sku"], prompt, sep=": ", file=calls)
        return {
            "prompt": prompt,
            "image": product["image"],
            "identity": product["sku"],
            "output_path": Path(directory, f"{product['sku']}.mp4"),
        }

    @task
    def read_path(path: str) -> str:
        return path

    read_path.expand(
        path=make_video.partial(directory="{{ params.output_directory }}")
        .expand(product=read_products())
        .map(lambda video: video["output_path"])
    )


described_by_a_function()
