"""The processes of one job, as torchrun starts them: which one this is, and joining what each of them found."""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

Item = TypeVar("Item")
FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def start() -> None:
    """Join the other processes where torchrun started several; a process alone, or joined already, goes on."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def count() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes have come here."""
    if count() > 1:
        distributed.barrier()


def join_lists(items: Sequence[Item]) -> list[Item]:
    """Return the items of all processes, rank after rank, to every one of them."""
    if count() == 1:
        return list(items)
    gathered: list[Any] = [None] * count()
    distributed.all_gather_object(gathered, list(items))
    return [item for part in gathered for item in part]


def join_arrays(values: FloatArray) -> FloatArray:
    """Return [N] values of which every process holds its own and nan for the others': each place from whoever has it.

    A place that several hold, or none, comes out as nan.
    """
    if count() == 1:
        return values
    held = np.isfinite(values)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.from_numpy(np.stack([np.where(held, values, 0.0), held.astype(np.float64)])).to(device)
    distributed.all_reduce(total)
    summed, holders = total.cpu().numpy()
    return np.where(holders == 1, summed, np.nan)
