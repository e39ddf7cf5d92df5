"""How many files and connections a program may have open at once."""

from __future__ import annotations

import resource

# More would be of no use to a program: a page takes 256 of them at most, all else some dozens.
MAX_HANDLES = 4096


def raise_handle_limit() -> int:
    """Raise the soft limit of open files to the hard one, MAX_HANDLES at most. Return how many may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_HANDLES if hard == resource.RLIM_INFINITY else min(hard, MAX_HANDLES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return MAX_HANDLES if soft == resource.RLIM_INFINITY else soft
