"""Run a sweep's units in this process, in worker processes, or on Ray; each finished row is kept at once."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from ..errors import UsageError, first_line
from ..policy.catalog import POLICIES
from .options import WorkerOptions
from .rows import RowFile
from .unit import Finished, Setting, SweepRow, Unit, UnitRunner

log = logging.getLogger(__name__)
_LOCAL = "local"


def check_workers(units: Sequence[Unit], options: WorkerOptions) -> None:
    """Raises UsageError where the units cannot run on such workers."""
    if options.workers < 1:
        raise UsageError(f"--workers {options.workers}: at least 1 must work")
    if any(unit.bench for unit in units) and (options.workers > 1 or options.ray is not None):
        raise UsageError("--bench times engines, which other workers would slow down: leave out --workers and --ray")
    if options.ray is not None:
        _import_ray()


def run_units(
    setting: Setting, units: Sequence[Unit], rows: RowFile, options: WorkerOptions, progress: Callable[[int, int], None]
) -> None:
    """Run the units that have no row yet. progress(done, total) counts units. Raises SodaError."""
    todo = [unit for unit in units if not rows.has(unit)]
    done = len(units) - len(todo)
    if done:
        log.info("sweep: %d of %d units are finished already", done, len(units))
    progress(done, len(units))
    if not todo:
        return
    if options.workers > 1 and options.ray in (None, _LOCAL):
        _draw_references(setting, todo)
    supply = Supply(todo, rows)
    if options.ray is not None:
        results = _on_ray(setting, supply, options)
    elif options.workers > 1:
        results = _in_processes(setting, supply, options.workers)
    else:
        runner = UnitRunner(setting)
        results = (runner.run(unit) for (unit,) in iter(partial(supply.take, 1), []))
    for count, finished in enumerate(results, done + 1):
        rows.add(finished)
        row = finished.row
        supply.finish(row)
        what = f"RMSE {row.rmse.mean:.4f}" if row.rmse is not None else f"refused: {row.error}"
        log.info("sweep: %s at %g, seeds %s: %s", row.planner, row.target_flops_ratio, row.seeds, what)
        progress(count, len(units))


class Supply:
    """Units that wait for a worker, with the plans that are there by then. A unit is held back while another one plans
    for its planner and target: its seeds play the same plan. Policies make no plan, and hold nothing back."""

    def __init__(self, units: Sequence[Unit], rows: RowFile) -> None:
        self._waiting, self._rows, self._planned_for = list(units), rows, set[tuple[str, float]]()

    def take(self, most: int) -> list[Unit]:
        """The next units that may run. None while all others are held back, or none is left."""
        taken: list[Unit] = []
        for unit in list(self._waiting):
            if len(taken) < most and unit.key[:2] not in self._planned_for:
                self._waiting.remove(unit)
                taken.append(self._rows.with_plan(unit))
                if taken[-1].plan is None and unit.planner not in POLICIES:
                    self._planned_for.add(unit.key[:2])
        return taken

    def finish(self, row: SweepRow) -> None:
        """Let those go on that waited for the unit of this row, which is in the rows by now."""
        self._planned_for.discard(row.key[:2])


def _draw_references(setting: Setting, units: Sequence[Unit]) -> None:
    """Draw unaccelerated samples once, on all cores, before the workers would each draw them."""
    runner = UnitRunner(setting)
    for seeds in dict.fromkeys(unit.seeds for unit in units):
        runner.draw_reference(range(*seeds))


def _in_processes(setting: Setting, supply: Supply, workers: int) -> Iterator[Finished]:
    spawn = multiprocessing.get_context("spawn")  # torch's thread pool does not survive a fork
    with ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(setting, _threads_each(workers))) as pool:
        waiting: set[Future[Finished]] = {pool.submit(_run, unit) for unit in supply.take(workers)}
        try:
            while waiting:
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()  # the row is kept before the next unit is asked for
                waiting |= {pool.submit(_run, unit) for unit in supply.take(workers - len(waiting))}
        except BrokenProcessPool:
            raise UsageError(
                f"--workers {workers}: a worker died, perhaps for lack of memory; try fewer. What is finished is kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # what they are at may take minutes, and is done again
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_runner: UnitRunner | None = None  # of a worker process


def _start(setting: Setting, threads: int) -> None:
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process ends the others
    _runner = UnitRunner(setting, threads)


def _run(unit: Unit) -> Finished:
    assert _runner is not None
    return _runner.run(unit)


def _on_ray(setting: Setting, supply: Supply, options: WorkerOptions) -> Iterator[Finished]:
    """One actor a worker. Machines that do not share the stage store draw unaccelerated samples of their own."""
    ray = _import_ray()
    threads = _threads_each(options.workers) if options.ray == _LOCAL else 1
    try:
        ray.init(address=options.ray, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--ray {options.ray}: {first_line(error)}") from None
    try:
        shared, actor = ray.put(setting), ray.remote(num_cpus=threads)(UnitRunner)
        pool = ray.util.ActorPool([actor.remote(shared, threads) for _ in range(options.workers)])
        free = options.workers
        while (units := supply.take(free)) or pool.has_next():
            for unit in units:
                pool.submit(lambda worker, unit: worker.run.remote(unit), unit)
            yield pool.get_next_unordered()
            free += 1 - len(units)
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        importlib.import_module("ray.util")
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError("--ray needs the package ray: pip install 'soda-export[ray]'") from None


def _threads_each(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)
