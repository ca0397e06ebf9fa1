"""A setting of the C library that halves the cost of large temporary arrays on Linux."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def tune_allocator() -> bool:
    """Keep freed memory in the process instead of handing it back after every tensor.

    glibc maps each large block anew and the kernel fills it with zeros, page by page: on a virtual machine that
    was a third of LiteMedSAM's time. For a process whose only business is this network, such as the benchmark, not
    for a library or for Slicer itself: memory once used stays with the process until it ends.
    Does nothing, and returns False, where the C library is not glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):
        return False
