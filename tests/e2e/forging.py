"""Send forged webhooks to a loopback URL as fast as possible: ``python -m tests.e2e.forging URL``.

The process ends when its standard input is closed, at the latest after ``MAX_SECONDS``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from itertools import count
from urllib.parse import urlsplit

from tests.signed_webhook import body_of, headers_for

#: Number of open connections, each with one request at a time.
CONNECTIONS = 32

MAX_SECONDS = 300.0


def requests_for(address: str) -> tuple[bytes, bytes]:
    """Return the text before and after the Airflow connection's id in a request with a wrong signature."""
    url = urlsplit(address)
    body = body_of("video_forged")
    headers = headers_for(body, secret="forged") | {"Host": url.netloc, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    path = url.path.rpartition("/")[0]
    return f"POST {path}/".encode(), f"?{url.query} HTTP/1.1\r\n{head}\r\n".encode() + body


async def forge(address: str, ended: asyncio.Event, statuses: Counter[str]) -> None:
    url = urlsplit(address)
    before, after = requests_for(address)
    existing = url.path.rpartition("/")[2]
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    for number in count():
        if ended.is_set():
            break
        # Every other request names a new, unknown connection.
        conn_id = existing if number % 2 else f"forged_{uuid.uuid4().hex}"
        writer.write(before + conn_id.encode() + after)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
        statuses[head.split()[1]] += 1
        if "connection: close" in head:
            writer.close()
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.close()


async def end(ended: asyncio.Event) -> None:
    """Set an event when standard input is closed, or after ``MAX_SECONDS``."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with suppress(TimeoutError):
        await asyncio.wait_for(reader.read(), MAX_SECONDS)
    ended.set()


async def main(address: str) -> None:
    assert urlsplit(address).hostname == "127.0.0.1"
    statuses: Counter[str] = Counter()
    ended = asyncio.Event()
    begun = time.monotonic()
    await asyncio.gather(end(ended), *(forge(address, ended, statuses) for _ in range(CONNECTIONS)))
    seconds = time.monotonic() - begun
    sys.stdout.write(json.dumps({"responses": statuses.total(), "statuses": statuses, "seconds": seconds}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
