"""Defaults of connections, configuration and arguments. Imports nothing: Airflow reads them while it starts."""

from __future__ import annotations

#: The model of a video, and of one that is made from another.
MODEL = "grok-video-1.5-preview"
DERIVED_MODEL = "grok-video-1.0"
#: Seconds of transient errors that a request lives through.
RETRY_TIMEOUT = 60.0
#: Seconds of pauses that the service asks for (429) that the first look-up of a task lives through: one of the longest,
#: which is five minutes, and what follows it.
RATE_LIMIT_TIMEOUT = 360.0
#: Seconds between two polls for one video where nothing better is known.
POLL_INTERVAL = 10.0
#: Seconds that one attempt waits for a video.
WAIT_TIMEOUT = 1800.0
#: Requests per second. The vendor allows a user of its default group 50 polls and 5 orders.
QUERY_RATE = 40.0
SUBMIT_RATE = 5.0
