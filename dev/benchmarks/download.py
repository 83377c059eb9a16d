"""Keeping a video on local disk, beside a bare httpx stream to disk that computes the same SHA-256.

``python -m dev.benchmarks.download [--quick]``: 512 MiB in turns, the median of each; then the memory that 1 GiB and 10
MiB take at most, each in a fresh interpreter; then eight files at once. Ours and the peer both sync the file to disk,
for a file that is not on disk yet is not kept; a peer that neither hashes nor syncs is printed beside them.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import httpx

from airflow_provider_toapis.api.client import ToAPIsClient
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.transport import CHUNK_SIZE
from airflow_provider_toapis.storage import destination
from dev.benchmarks._file_host import FileHost
from dev.benchmarks._measuring import is_quick

MIB = 1024 * 1024
ROUNDS = 5
TARGET = 0.9
MEMORY_TARGET = 16
AT_ONCE = 8

#: Made once for the peers, as ours is: it reads all certificates.
_TLS = httpx.create_ssl_context()

Download = Callable[[str, Path], None]


def main() -> None:
    """Measure, and print the figures; the ratio last."""
    scale = 16 if is_quick(__doc__ or "") else 1
    large = 1024 * MIB // scale
    with FileHost() as host, tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        if shutil.disk_usage(folder).free < 2 * large:
            raise SystemExit(f"needs {2 * large // MIB} MiB of free disk")
        place = Path(folder)
        speed = _speeds(host.link(large // 2), large // 2, place)
        small_peak, large_peak = (_peak_memory(host.link(size), place) for size in (10 * MIB, large))
        one_by_one, at_once = (_seconds_for_several(host.link(large // 16), place, n) for n in (1, AT_ONCE))
    ours, hashing, bare = (speed[name] for name in ("ours", "bare with SHA-256", "bare"))
    for name, figure in speed.items():
        print(f"{name}: {figure:.0f} MiB/s (median of {ROUNDS}, {large // 2 // MIB} MiB)")
    print(
        f"peak memory: {large_peak:.0f} MiB at {large // MIB} MiB, {small_peak:.0f} MiB at 10 MiB,"
        f" {large_peak - small_peak:+.1f} MiB (target: at most {MEMORY_TARGET})"
    )
    print(
        f"{AT_ONCE} files of {large // 16 // MIB} MiB: {at_once:.1f} s at once, {one_by_one:.1f} s one after the other"
    )
    print(
        f"download: {ours / hashing:.2f} of a bare stream with the same SHA-256 (target: at least {TARGET}),"
        f" {ours / bare:.2f} of one without; {large_peak - small_peak:+.1f} MiB from 10 MiB to {large // MIB} MiB"
        f" (target: at most {MEMORY_TARGET}); {AT_ONCE} at once in {at_once / one_by_one:.2f} of the time"
    )


def _speeds(link: str, size: int, place: Path) -> dict[str, float]:
    peers: dict[str, Download] = {"ours": keep, "bare with SHA-256": _bare_hashing, "bare": _bare}
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, download in peers.items():
            file = place / "speed.mp4"
            began = time.perf_counter()
            download(link, file)
            speeds[name].append(size / MIB / (time.perf_counter() - began))
            if file.stat().st_size != size:
                raise RuntimeError(f"{name} brought {file.stat().st_size} bytes")
            file.unlink()
    return {name: statistics.median(figures) for name, figures in speeds.items()}


def keep(link: str, file: Path) -> None:
    """Keep a video as the hook, the operators and ``output_path`` do."""
    task = VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed", urls=(link,))
    with ToAPIsClient(ClientSettings(api_key="sk-benchmark")) as client:
        client.download(task, destination(str(file), file.name), refresh=_never)


def _never() -> NoReturn:
    raise RuntimeError("the link died")


def _bare_hashing(link: str, file: Path) -> None:
    digest = hashlib.sha256()
    with httpx.stream("GET", link, verify=_TLS) as response, file.open("wb") as stream:
        for chunk in response.iter_raw(CHUNK_SIZE):
            stream.write(chunk)
            digest.update(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    digest.hexdigest()


def _bare(link: str, file: Path) -> None:
    with httpx.stream("GET", link, verify=_TLS) as response, file.open("wb") as stream:
        for chunk in response.iter_raw(CHUNK_SIZE):
            stream.write(chunk)


def _peak_memory(link: str, place: Path) -> float:
    """Return the most memory, in MiB, that an interpreter of its own took to keep one file."""
    run = subprocess.run(
        [sys.executable, "-c", f"from dev.benchmarks.download import *; print_peak({link!r}, {str(place)!r})"],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout.strip().splitlines()[-1])


def print_peak(link: str, place: str) -> None:
    """Keep one file and print the most memory that this process took, in MiB."""
    file = Path(place) / "memory.mp4"
    keep(link, file)
    file.unlink()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _seconds_for_several(link: str, place: Path, at_once: int) -> float:
    files = [place / f"{number}.mp4" for number in range(AT_ONCE)]
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda file: keep(link, file), files))
    seconds = time.perf_counter() - began
    for file in files:
        file.unlink()
    return seconds


if __name__ == "__main__":
    main()
