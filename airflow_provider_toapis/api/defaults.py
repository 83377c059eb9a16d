"""Numbers that hold where neither a connection, nor Airflow's configuration, nor an author says otherwise."""

from __future__ import annotations

#: Seconds between two polls for one video where nothing better is known.
POLL_INTERVAL = 10.0
#: Seconds that one attempt waits for a video.
WAIT_TIMEOUT = 1800.0
#: Requests per second. The vendor allows a user of its default group 50 polls and 5 orders.
QUERY_RATE = 40.0
SUBMIT_RATE = 5.0
