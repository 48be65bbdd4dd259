"""The standard process_* figures, as every Prometheus client library exports them, from Linux's /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
# Fields of /proc/PID/stat after the command's closing bracket: field 3 of proc_pid_stat(5) is the first.
_UTIME: Final = 14 - 3
_STIME: Final = 15 - 3
_START_TIME: Final = 22 - 3
_VSIZE: Final = 23 - 3
_RSS_PAGES: Final = 24 - 3


class ProcessUsage(NamedTuple):
    cpu_seconds: float
    resident_bytes: int
    virtual_bytes: int
    open_fds: int
    start_time: float  # seconds since 1970


def read_process_usage(proc: Path = _PROC) -> ProcessUsage | None:
    """This process's figures, or None where /proc does not tell (not Linux, or hidden). Takes about 60 us."""
    try:
        fields = (proc / "self/stat").read_bytes().rpartition(b")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return ProcessUsage(
            cpu_seconds=(int(fields[_UTIME]) + int(fields[_STIME])) / ticks,
            resident_bytes=int(fields[_RSS_PAGES]) * os.sysconf("SC_PAGE_SIZE"),
            virtual_bytes=int(fields[_VSIZE]),
            open_fds=len(os.listdir(proc / "self/fd")),  # noqa: PTH208 - iterdir makes a Path for each
            start_time=_boot_time(proc) + int(fields[_START_TIME]) / ticks,
        )
    except (OSError, ValueError, IndexError):
        return None


def _boot_time(proc: Path) -> float:
    for line in (proc / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise ValueError("no btime in /proc/stat")
