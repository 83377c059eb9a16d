"""Defaults of connections, configuration and arguments. Imports nothing, because Airflow reads them at startup."""

from __future__ import annotations

#: The default models: for a new video, and for a remix or an extension.
MODEL = "grok-video-1.5-preview"
DERIVED_MODEL = "grok-video-1.0"
#: Seconds for which a request is retried after transient errors.
RETRY_TIMEOUT = 60.0
#: Seconds of rate limits (429) for which the first look-up of a task is retried: one pause of the maximum, five
#: minutes, and another minute.
RATE_LIMIT_TIMEOUT = 360.0
#: Seconds between two polls of one video, unless its progress or earlier videos of the model suggest another time.
POLL_INTERVAL = 10.0
#: Seconds that one attempt waits for a video.
WAIT_TIMEOUT = 1800.0
#: Requests per second. The vendor allows a user of its default group 50 polls and 5 submissions.
QUERY_RATE = 40.0
SUBMIT_RATE = 5.0
