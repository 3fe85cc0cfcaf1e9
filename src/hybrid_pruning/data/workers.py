"""Work in processes beside this one, its results in order: through pipes, as /dev/shm may be small or missing."""

import multiprocessing
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from hybrid_pruning.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_in_processes(
    action: Callable[[Item], Result], items: Sequence[Item], workers: int, method: str | None = None
) -> Iterator[Result]:
    """Yield `action(item)` of each item in order, whatever the number of workers; 0 computes here.

    The start method is multiprocessing's; the action is importable by name where workers are not forked.
    """
    if not workers:
        yield from map(action, items)
        return
    context: Any = multiprocessing.get_context(method)
    crew: list[tuple[BaseProcess, Connection]] = []
    try:
        for first in range(min(workers, len(items))):
            ours, theirs = context.Pipe()
            with theirs:  # closed here, so that the end of the process is the end of the stream
                crew.append((context.Process(target=_work, args=(theirs, action, items[first::workers])), ours))
                crew[-1][0].daemon = True
                crew[-1][0].start()
    except OSError as error:
        _dismiss(crew)
        raise InputError(f"{workers} worker processes cannot be started ({error.strerror}); use fewer") from error
    try:
        for index in range(len(items)):
            process, connection = crew[index % workers]
            try:
                found = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError) as error:
                raise _death(process) from error
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        _dismiss(crew)


def _dismiss(crew: list[tuple[BaseProcess, Connection]]) -> None:
    for process, connection in crew:
        connection.close()
        if process.pid is not None:  # it was started
            process.kill()
            process.join()


def _work(connection: Connection, action: Callable[[Item], object], items: Sequence[Item]) -> None:
    """Send the result of each item, and after an error no more."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent alone answers Ctrl-C
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # a forked process lacks the threads of the parent's pool
    for item in items:
        found: object
        try:
            found = action(item)
        except InputError as error:
            found = error
        except MemoryError:
            found = _failure("ran out of memory")
        except Exception as error:
            found = RuntimeError(f"{type(error).__name__}: {error}")
            found.add_note(traceback.format_exc())
        stream = BytesIO()
        _Pickler(stream, 5).dump(found)
        try:
            connection.send_bytes(stream.getbuffer())
        except ConnectionError:  # nobody waits for it any more
            return
        if isinstance(found, Exception):
            return


class _Pickler(pickle.Pickler):
    """One that writes tensors as arrays: torch's own way goes through shared memory, or copies them several times."""

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and type(value) is torch.Tensor:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _death(process: BaseProcess) -> InputError:
    process.join(10)
    code = process.exitcode or 0
    how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    return _failure(how)


def _failure(how: str) -> InputError:
    advice = "if memory ran out, use fewer workers or smaller batches; an unfinished training goes on with --resume"
    return InputError(f"a worker process {how}; {advice}")
