"""Orders beyond the rate of the account are refused, cost nothing, and are made all the same."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from airflow_provider_toapis.api.client import ToAPIsClient
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, SubmitSpec
from airflow_provider_toapis.api.video_request import ReferenceImage, VideoRequest
from tests.integration.conftest import image_url, posts
from tests.integration.emulator_process import EmulatorProcess

PROCESSES, ORDERS_EACH = 4, 5


def order_some(url: str, image: str, process: str) -> None:
    """Order one video after the other, as a process that knows nothing of the others and is told no rate."""
    request = VideoRequest(model="grok-video-1.5-preview", prompt="A turn", images=(ReferenceImage.from_url(image),))
    with ToAPIsClient(ClientSettings("sk-emulator", base_url=url, submit_rate=100)) as client:
        for number in range(ORDERS_EACH):
            keys = IdempotencyKeys.from_author(f"{process}-{number}")
            client.submit_once(SubmitSpec(request, keys, retry_timeout=120))


def test_processes_that_order_faster_than_the_account_allows_all_get_their_videos() -> None:
    # One order per second, after a burst of ten.
    with EmulatorProcess(submit_rps=1) as service:
        command = [sys.executable, "-m", "tests.integration.test_order_rate", service.url, image_url(service)]
        processes = [subprocess.Popen([*command, f"process-{number}"]) for number in range(PROCESSES)]
        assert [process.wait(300) for process in processes] == [0] * PROCESSES
        statuses = Counter(entry["status"] for entry in posts(service))
        assert statuses.keys() == {200, 429}
        assert statuses[200] == PROCESSES * ORDERS_EACH
        # No loop: an order that is refused is not sent again at once.
        assert statuses[429] <= 2 * statuses[200]
        assert len(service.ledger()["billed"]) == PROCESSES * ORDERS_EACH


if __name__ == "__main__":
    order_some(*sys.argv[1:])
