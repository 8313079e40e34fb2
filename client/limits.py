"""What a process of a site may take of the machine that others work on too."""

from __future__ import annotations

import resource

NODE_BYTES = 4 * 10**9
"""Most memory of the node, which holds a message and its reply, many times as large as ours."""


def limit_memory(most_bytes: int) -> None:
    """Let this process take no more memory than that; what it asks for beyond fails at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
