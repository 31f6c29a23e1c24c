"""One thread pool for all of a bundle's ONNX Runtime sessions.

By default each session has a pool of its own, whose threads keep spinning for a while after a run. A bundle runs a
different session at nearly every step, so the pool of the last one would take the cores from the next one: measured, a
fully reused step of a small model then costs as much as a full one.
"""

from __future__ import annotations

import threading
from typing import Any

_lock = threading.Lock()
_pool: dict[str, int] = {}  # threads of the process-wide pool, once there is one


def share_threads(ort: Any, options: Any, threads: int) -> None:
    """Let sessions with these options share one pool of `threads` threads (0: one a core).

    The process has one such pool. Where it has another size, or ONNX Runtime is too old to share one, sessions get
    their own pools, whose threads sleep when idle.
    """
    pool = _shared_pool(ort, threads)
    if pool == threads or (pool >= 0 and threads == 0):
        options.use_per_session_threads = False
        return
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _shared_pool(ort: Any, threads: int) -> int:
    """Threads of the process-wide pool, made now if there is none; -1 if there cannot be one."""
    with _lock:
        if not _pool and hasattr(ort, "set_global_thread_pool_sizes"):
            try:
                ort.set_global_thread_pool_sizes(threads, 1)
                _pool["threads"] = threads
            except Exception:  # the application made a pool of a size we do not know
                _pool["threads"] = 0
        return _pool.get("threads", -1)
