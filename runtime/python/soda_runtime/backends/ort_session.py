"""One session of ONNX Runtime bound for one step on CUDA, and the CUDA graph that it may record of itself."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Any

from ..errors import EngineError
from .cuda import Cuda, end_after_work

_NO_GRAPH = -1


class BoundSession:
    """Called without arguments; puts the session's work into the stream and does not wait for it.

    can_record: whether the session was opened for CUDA graphs. memories: what its addresses lie in.
    """

    def __init__(
        self, cuda: Cuda, ort: Any, session: Any, binding: Any, where: str, can_record: bool, memories: tuple[Any, ...]
    ) -> None:
        self._cuda, self._ort, self._session, self._binding, self._where = cuda, ort, session, binding, where
        self._can_record, self._memories = can_record, memories
        self._plain = self._options(_NO_GRAPH)
        self._recorded: Any = None
        self._thread = 0

    def record(self, graph: int) -> bool:
        """Let the next call of this thread record what it runs, as graph number `graph` of the session; False: cannot.

        That call runs everything several times over, so its results must be nobody's. ONNX Runtime keeps a graph for
        the thread that recorded it: calls of other threads run without it.
        """
        if not self._can_record:
            return False
        self._recorded, self._thread = self._options(graph), threading.get_ident()
        if hasattr(self._session, "release_captured_graph"):
            weakref.finalize(self, _release, self._cuda, self._session, graph)
        return True

    def forget(self) -> None:
        """Run without a graph from now on."""
        self._recorded = None

    def __call__(self) -> None:
        is_recorded = self._recorded is not None and threading.get_ident() == self._thread
        with self._cuda.lock:
            self._cuda.use_device()
            try:
                self._session.run_with_iobinding(self._binding, self._recorded if is_recorded else self._plain)
            except Exception as error:
                raise EngineError(f"{self._where}: ONNX Runtime failed: {error}") from None

    def _options(self, graph: int) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


def _release(cuda: Cuda, session: Any, graph: int) -> None:
    """Best effort, after the work that may use it: what is left goes with the session."""

    def release() -> None:
        with contextlib.suppress(Exception):
            session.release_captured_graph(graph)

    if not cuda.is_here:
        return
    with cuda.lock:
        end_after_work(cuda, release)
