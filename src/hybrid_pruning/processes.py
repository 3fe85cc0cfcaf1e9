"""The processes of one job, as torchrun starts them: which one this is, and joining what each of them found."""

import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from hybrid_pruning.errors import InputError
from hybrid_pruning.terminal import console

Item = TypeVar("Item")
FloatArray = np.ndarray[Any, np.dtype[np.float64]]

_store: Any = None
"""What the processes have in common as long as torchrun lives, whichever of them fails."""
_waits = itertools.count()
FAILURE = "hybrid_pruning/failure"


def start() -> None:
    """Join the other processes where torchrun started several; a process alone, or joined already, goes on.

    Only the main process keeps its console.

    Raises:
        InputError: the environment tells of other processes, but not where they are.
    """
    global _store
    size = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not size.isdecimal() or not int(size):
        raise InputError(f"WORLD_SIZE={size}: expected how many processes there are; unset it, or start with torchrun")
    if int(size) == 1:
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if not distributed.is_initialized():
        device = None
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        try:
            _store, here, size = next(rendezvous("env://"))
        except ValueError as error:
            raise InputError(f"WORLD_SIZE={size} without what goes with it ({error}); start with torchrun") from error
        backend = "nccl" if device else "gloo"
        distributed.init_process_group(backend, store=_store, rank=here, world_size=size, device_id=device)
    console.quiet = not is_main()


def stop() -> None:
    """Leave the other processes, once all have come here."""
    if (distributed := _joined()) is not None:
        wait()
        distributed.destroy_process_group()


def count() -> int:
    """Return how many processes there are."""
    distributed = _joined()
    return 1 if distributed is None else int(distributed.get_world_size())


def rank() -> int:
    """Return which of them this is, from 0."""
    distributed = _joined()
    return 0 if distributed is None else int(distributed.get_rank())


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes have come here, however long that takes.

    Everything else that they do together gives the slowest of them ten minutes on GPUs and thirty on CPUs.
    """
    distributed = _joined()
    if distributed is None or count() == 1:
        return
    if _store is not None:
        place = f"hybrid_pruning/wait/{next(_waits)}"
        _store.add(place, 1)
        while _store.add(place, 0) < count() and not _store.check([FAILURE]):
            time.sleep(0.05)
    distributed.barrier()


def from_main(action: Callable[[], Item]) -> Item:
    """Return, to every process, what an action returns that the main one alone takes; it travels pickled."""
    distributed = _joined()
    if distributed is None or count() == 1:
        return action()
    found: list[Any] = [action() if is_main() else None]
    distributed.broadcast_object_list(found)
    result: Item = found[0]
    return result


def fail(code: int) -> tuple[bool, int]:
    """Tell the other processes that this one ends with an error, and return whether it was the first of them.

    A process that fails takes the others with it: they lose their connection to it. Those that come here after the
    first know that it has said why.

    Args:
        code: the exit code this process is about to end with.

    Returns:
        Whether it was the first, and the first one's exit code, which the job ends with.
    """
    if _store is None:  # before they have met, all fail alike
        return os.environ.get("RANK", "0") == "0", code
    try:
        first, _, found = _store.compare_set(FAILURE, "", f"{rank()}:{code}").decode().partition(":")
    except RuntimeError:  # whoever kept the store is gone, and nobody can tell who was first
        return True, code
    return int(first) == rank(), int(found)


def average(values: Sequence[float]) -> list[float]:
    """Return the mean over the processes of each value."""
    distributed = _joined()
    if distributed is None or count() == 1:
        return list(values)
    import torch

    total = torch.tensor(values, dtype=torch.float64, device=_device())
    distributed.all_reduce(total)
    means: list[float] = (total / count()).tolist()
    return means


def join_lists(items: Sequence[Item]) -> list[Item]:
    """Return the items of all processes, rank after rank, to every one of them."""
    distributed = _joined()
    if distributed is None or count() == 1:
        return list(items)
    gathered: list[Any] = [None] * count()
    distributed.all_gather_object(gathered, list(items))
    return [item for part in gathered for item in part]


def join_arrays(values: FloatArray) -> FloatArray:
    """Return [N] values of which every process holds its own and nan for the others': each place from whoever has it.

    A place that several hold, or none, comes out as nan.
    """
    distributed = _joined()
    if distributed is None or count() == 1:
        return values
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
    """Where tensors have to lie to be exchanged."""
    return "cuda" if _joined().get_backend() == "nccl" else "cpu"
