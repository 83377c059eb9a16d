"""Compare saving a video to local disk with a plain httpx stream to disk that computes the same SHA-256.

``python -m dev.benchmarks.download [--quick]`` measures:

- The speed for 512 MiB: the median of alternating downloads. This provider and the plain stream sync the file to disk.
  A second plain stream computes no SHA-256 and does not sync the file.
- The peak memory for 1 GiB and for 10 MiB, each in a new interpreter.
- The time for eight files at the same time.
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

#: TLS settings of the plain streams. They are created only once, as in this provider, because their creation reads all
#: certificates.
_TLS = httpx.create_ssl_context()

Download = Callable[[str, Path], None]


def main() -> None:
    """Run the measurements and print the figures. The last line contains the ratio."""
    scale = 16 if is_quick(__doc__ or "") else 1
    large = 1024 * MIB // scale
    with FileHost() as host, tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary:
        if shutil.disk_usage(temporary).free < 2 * large:
            raise SystemExit(f"The benchmark needs {2 * large // MIB} MiB of free disk space.")
        directory = Path(temporary)
        speed = _speeds(host.url(large // 2), large // 2, directory)
        small_peak, large_peak = (_peak_memory(host.url(size), directory) for size in (10 * MIB, large))
        one_by_one, at_once = (_seconds_for_several(host.url(large // 16), directory, n) for n in (1, AT_ONCE))
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
        f"download: {ours / hashing:.2f} of the speed of a bare stream with the same SHA-256 (target: at least"
        f" {TARGET}), {ours / bare:.2f} of the speed of a bare stream without it; peak memory"
        f" {large_peak - small_peak:+.1f} MiB if the file has {large // MIB} MiB instead of 10 MiB (target: at most"
        f" {MEMORY_TARGET}); {AT_ONCE} files at once take {at_once / one_by_one:.2f} of the time that they take one"
        " after the other"
    )


def _speeds(url: str, size: int, directory: Path) -> dict[str, float]:
    peers: dict[str, Download] = {"ours": save, "bare with SHA-256": _bare_hashing, "bare": _bare}
    speeds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, download in peers.items():
            file = directory / "speed.mp4"
            began = time.perf_counter()
            download(url, file)
            speeds[name].append(size / MIB / (time.perf_counter() - began))
            if file.stat().st_size != size:
                raise RuntimeError(f"{name}: expected {size} bytes, got {file.stat().st_size}")
            file.unlink()
    return {name: statistics.median(figures) for name, figures in speeds.items()}


def save(url: str, file: Path) -> None:
    """Save a video as the hook and the operators do."""
    task = VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed", urls=(url,))
    with ToAPIsClient(ClientSettings(api_key="sk-benchmark")) as client:
        client.download(task, destination(str(file), file.name), refresh=_never)


def _never() -> NoReturn:
    raise RuntimeError("The URL expired.")


def _bare_hashing(url: str, file: Path) -> None:
    digest = hashlib.sha256()
    with httpx.stream("GET", url, verify=_TLS) as response, file.open("wb") as stream:
        for chunk in response.iter_raw(CHUNK_SIZE):
            stream.write(chunk)
            digest.update(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    digest.hexdigest()


def _bare(url: str, file: Path) -> None:
    with httpx.stream("GET", url, verify=_TLS) as response, file.open("wb") as stream:
        for chunk in response.iter_raw(CHUNK_SIZE):
            stream.write(chunk)


def _peak_memory(url: str, directory: Path) -> float:
    """Return the peak memory, in MiB, of a new interpreter that saves one file."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from dev.benchmarks.download import *; print_peak_memory({url!r}, {str(directory)!r})",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout.strip().splitlines()[-1])


def print_peak_memory(url: str, directory: str) -> None:
    """Save one file and print the peak memory of this process, in MiB."""
    file = Path(directory) / "memory.mp4"
    save(url, file)
    file.unlink()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _seconds_for_several(url: str, directory: Path, at_once: int) -> float:
    files = [directory / f"{number}.mp4" for number in range(AT_ONCE)]
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda file: save(url, file), files))
    seconds = time.perf_counter() - began
    for file in files:
        file.unlink()
    return seconds


if __name__ == "__main__":
    main()
