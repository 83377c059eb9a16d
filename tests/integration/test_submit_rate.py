"""Submissions beyond the account's rate limit are rejected and retried until they succeed."""

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

PROCESSES, SUBMISSIONS_EACH = 4, 5


def submit_some(url: str, image: str, process: str) -> None:
    """Submit several videos in sequence, without a rate limit of this process."""
    request = VideoRequest(model="grok-video-1.5-preview", prompt="A turn", images=(ReferenceImage.from_url(image),))
    with ToAPIsClient(ClientSettings("sk-emulator", base_url=url, submit_rate=100)) as client:
        for number in range(SUBMISSIONS_EACH):
            keys = IdempotencyKeys.from_author(f"{process}-{number}")
            client.submit_once(SubmitSpec(request, keys, retry_timeout=120))


def test_processes_that_submit_faster_than_the_rate_limit_all_succeed() -> None:
    # One submission per second, after a burst of ten.
    with EmulatorProcess(submit_rps=1) as service:
        command = [sys.executable, "-m", "tests.integration.test_submit_rate", service.url, image_url(service)]
        processes = [subprocess.Popen([*command, f"process-{number}"]) for number in range(PROCESSES)]
        assert [process.wait(300) for process in processes] == [0] * PROCESSES
        statuses = Counter(entry["status"] for entry in posts(service))
        assert statuses.keys() == {200, 429}
        assert statuses[200] == PROCESSES * SUBMISSIONS_EACH
        # A rejected submission is not sent again immediately.
        assert statuses[429] <= 2 * statuses[200]
        assert len(service.ledger()["billed"]) == PROCESSES * SUBMISSIONS_EACH


if __name__ == "__main__":
    submit_some(*sys.argv[1:])
