"""Defaults of connections, configuration and arguments. Imports nothing, because Airflow loads it at startup."""

from __future__ import annotations

#: Default model of a new video, and default model of a remix or an extension.
MODEL = "grok-video-1.5-preview"
DERIVED_MODEL = "grok-video-1.0"
#: Seconds for which a request is retried after transient errors.
RETRY_TIMEOUT = 60.0
#: Seconds for which the first look-up of a task is retried after rate limits (429). That is one minute more than the
#: longest pause after a 429.
RATE_LIMIT_TIMEOUT = 360.0
#: Seconds between two polls of a video, unless its progress or earlier videos of its model suggest another time.
POLL_INTERVAL = 10.0
#: Seconds that one attempt waits for a video.
WAIT_TIMEOUT = 1800.0
#: Maximum polls and submissions per second. The vendor allows each user of its default group 50 polls and 5
#: submissions.
QUERY_RATE = 40.0
SUBMIT_RATE = 5.0
