"""The processes of one job, as torchrun starts them: ranks, joining of results, failures, and a process's memory."""

import ctypes
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid_pruning.console import console, say
from hybrid_pruning.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    FloatArray = np.ndarray[Any, np.dtype[np.float64]]
else:
    FloatArray = Any  # the command line loads numpy where it is needed

Item = TypeVar("Item")

_store: Any = None
"""Shared by the processes as long as torchrun lives, whichever of them fails."""
_waits = itertools.count()
FAILURE = "hybrid_pruning/failure"
PLACE = "hybrid_pruning/process/{}"
_failing = threading.Lock()
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def start() -> None:
    """Join the other processes where torchrun started several; a process alone, or joined already, goes on.

    Only the main process keeps its console.
    """
    global _store
    if (size := _number("WORLD_SIZE", "1")) == 1:
        return
    here, local = _number("RANK"), _number("LOCAL_RANK")
    if not max(here, local) < size:
        raise InputError(f"RANK={here} and LOCAL_RANK={local} with WORLD_SIZE={size}; start with torchrun")
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if not distributed.is_initialized():
        device = None
        if torch.cuda.is_available():
            if local >= torch.cuda.device_count():
                raise InputError(
                    f"LOCAL_RANK={local}: there are {torch.cuda.device_count()} GPUs; start fewer processes"
                )
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        try:
            _store, here, size = next(rendezvous("env://"))
        except (ValueError, RuntimeError) as error:  # no address, no port, or nobody there
            raise InputError(f"WORLD_SIZE={size} without what goes with it ({error}); start with torchrun") from error
        backend = "nccl" if device else "gloo"
        distributed.init_process_group(backend, store=_store, rank=here, world_size=size, device_id=device)
        _store.set(PLACE.format(here), f"{os.getpid()} {socket.gethostname()}")
        _watch()
    console.quiet = console.quiet or not is_main()


def stop() -> None:
    """Leave the other processes, once all have come here."""
    if (distributed := _joined()) is not None:
        wait()
        distributed.destroy_process_group()


def count() -> int:
    """Return the number of processes."""
    distributed = _joined()
    return 1 if distributed is None else int(distributed.get_world_size())


def rank() -> int:
    """Return the number of this process, from 0."""
    distributed = _joined()
    return 0 if distributed is None else int(distributed.get_rank())


def is_main() -> bool:
    """Return whether this is the process that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes have come here, however long that takes.

    Everything else that they do together gives the slowest of them ten minutes on GPUs and thirty on CPUs.
    """
    distributed = _joined()
    if distributed is None:
        return
    if _store is not None:
        place = f"hybrid_pruning/wait/{next(_waits)}"
        _store.add(place, 1)
        for turn in itertools.count(1):
            if _store.add(place, 0) >= count() or _store.check([FAILURE]):
                break
            time.sleep(0.05)
            if turn % 20 == 0 and lost():
                raise RuntimeError("a process that the others wait for is gone")
    distributed.barrier()


def from_main(action: Callable[[], Item]) -> Item:
    """Return the result of an action of the main process to every one; it travels pickled."""
    distributed = _joined()
    if distributed is None:
        return action()
    found: list[Any] = [action() if is_main() else None]
    distributed.broadcast_object_list(found)
    result: Item = found[0]
    return result


def fail(code: int) -> tuple[bool, int]:
    """Announce that this process ends with an error; return whether it was the first, and the first one's exit code.

    A process that fails takes the others with it: they lose their connection to it. Only the first prints the reason.
    """
    if _store is None:  # before they have met, all fail alike
        return os.environ.get("RANK", "0") in ("0", ""), code
    _failing.acquire(timeout=10)  # never released: its thread prints the reason and ends the process
    try:
        first, _, found = _store.compare_set(FAILURE, "", f"{rank()}:{code}").decode().partition(":")
    except RuntimeError:  # the process with the store is gone
        return True, code
    return int(first) == rank(), int(found)


def lost() -> list[int]:
    """Return the processes on this machine that are gone without a reason printed."""
    found: list[int] = []
    with suppress(RuntimeError):  # the process with the store is gone
        for other in range(count()) if _store is not None and not _store.check([FAILURE]) else ():
            if other != rank() and _store.check([PLACE.format(other)]):
                process, _, machine = _store.get(PLACE.format(other)).decode().partition(" ")
                if machine == socket.gethostname() and not _is_running(int(process)):
                    found.append(other)
    return found


def describe_lost(ranks: Sequence[int]) -> str:
    """Return the message about processes that are gone."""
    names = ", ".join(map(str, ranks))
    return (
        f"rank {names} of {count()} was killed, or died without a word; if memory ran out, make training.batch_size "
        "smaller; an unfinished training goes on with --resume"
    )


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or no /proc
        return True
    return status.rpartition(")")[2].split()[0] not in "ZX"  # ended, but not yet collected by its parent


def _watch() -> None:
    """Print the lost process when torchrun ends this one because of it, wherever this one may hang."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: None)
    except ValueError:  # not the main thread
        return
    if before is not signal.SIG_DFL:
        signal.signal(signal.SIGTERM, before)
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end, args=(reader, writer), daemon=True).start()


def _end(reader: socket.socket, _: socket.socket) -> None:
    while reader.recv(1) != bytes([signal.SIGTERM]):
        pass
    try:
        _store.set(PLACE.format(rank()), "0 ")  # an end in good order
        ranks = lost()
        message = describe_lost(ranks)
        if ranks and fail(2)[0]:
            say(f"hybrid-pruning: {message}", error=True)
    finally:
        os._exit(128 + signal.SIGTERM)


def _number(name: str, default: str = "") -> int:
    """Return a number of the environment that torchrun writes."""
    text = os.environ.get(name, "").strip() or default
    if not (text.isascii() and text.isdecimal()) or (name == "WORLD_SIZE" and not int(text)):
        raise InputError(
            f"{name}={text}: expected a whole number, as torchrun writes it; start with torchrun, or unset WORLD_SIZE"
        )
    return int(text)


def average(values: Sequence[float]) -> list[float]:
    """Return the mean over the processes of each value."""
    distributed = _joined()
    if distributed is None:
        return list(values)
    import torch

    total = torch.tensor(values, dtype=torch.float64, device=_device())
    distributed.all_reduce(total)
    means: list[float] = (total / count()).tolist()
    return means


def share_tensors(tensors: Iterable[Any]) -> None:
    """Give the main process's values of tensors to all, in place."""
    if (distributed := _joined()) is not None:
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def join_lists(items: Sequence[Item]) -> list[Item]:
    """Return the items of all processes, rank after rank, to every one of them."""
    distributed = _joined()
    if distributed is None:
        return list(items)
    gathered: list[Any] = [None] * count()
    distributed.all_gather_object(gathered, list(items))
    return [item for part in gathered for item in part]


def join_arrays(values: FloatArray) -> FloatArray:
    """Return [N] values of which every process holds its own and nan for the others': each place from its holder.

    A place that several hold, or none, comes out as nan.
    """
    distributed = _joined()
    if distributed is None:
        return values
    import numpy as np
    import torch

    held = np.isfinite(values)
    total = torch.from_numpy(np.stack([np.where(held, values, 0.0), held.astype(np.float64)])).to(_device())
    distributed.all_reduce(total)
    summed, holders = total.cpu().numpy()
    return np.where(holders == 1, summed, np.nan)


def _joined() -> Any:
    """Return torch.distributed where processes have been joined; a process that never loaded torch is alone."""
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed is not None and distributed.is_initialized() else None


def _device() -> str:
    """Return the device of tensors that are exchanged."""
    return "cuda" if _joined().get_backend() == "nccl" else "cpu"


def keep_freed_memory() -> bool:
    """Make glibc keep memory that the process frees; a CPU training step then spends no time on fresh pages.

    It holds for the whole process, so programs call it and the library does not. A training's memory stays at its peak,
    which it returns to every step anyway. Measured in dev/LOG.md. Return False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1
