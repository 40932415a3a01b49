"""Several processes that train one model: what they agree on, and means over all of them.

They are started by `accelerate launch` or `torchrun`, one a GPU. Without either there is one process, and every
function here does nothing. Numbers on the host (flags, steps) travel over gloo, so that no process waits for its GPU.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
from torch import Tensor, distributed, nn

TIMEOUT = timedelta(days=2)
"""How long processes wait for the main one, which alone decodes videos and validates."""
BUCKET = 2**24
"""Numbers averaged in one message: enough to fill the wire, little beside the gradients."""

_is_split = False


def start(device: str) -> None:
    """Join the processes that a launcher started with this one; does nothing without a launcher, or the second time.

    Args:
        device: "cpu", or anything else for the GPU of this process where there is one.

    Raises:
        ValueError: A GPU was named by its number, though every process has its own.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and not distributed.is_initialized():
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=TIMEOUT)
        atexit.register(state.destroy_process_group)
    if count() > 1:
        if ":" in device:
            raise ValueError(f"{count()} processes cannot share the device {device!r}; leave it out, or give 'auto'")
        _host_group()


def count() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Tell whether this is the process that logs and writes."""
    return rank() == 0


@cache
def _host_group() -> distributed.ProcessGroup | None:
    """Return a group for tensors on the host; None is the default group, where that is gloo already."""
    if distributed.get_backend() == "gloo":
        return None
    group = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(group, distributed.ProcessGroup), "this process is no member of a group of all"
    return group


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        distributed.barrier(group=_host_group())


@contextmanager
def main_first() -> Iterator[None]:
    """Let one process of each machine do the work within before the others, who then find it done."""
    first = int(os.environ.get("LOCAL_RANK", str(rank()))) == 0
    if not first:
        wait()
    yield
    if first:
        wait()


def smallest(value: int) -> int:
    """Return the smallest value that any process gave."""
    if count() == 1:
        return value
    tensor = torch.tensor(value)
    distributed.all_reduce(tensor, distributed.ReduceOp.MIN, group=_host_group())
    return int(tensor)


def any_process(flag: bool) -> bool:
    """Tell whether any process raised its flag."""
    return smallest(0 if flag else 1) == 0


def gather_texts(text: str) -> list[str]:
    """Return the text of every process, in their order."""
    texts: list[str | None] = [text]
    if count() > 1:
        texts = [None] * count()
        distributed.all_gather_object(texts, text, group=_host_group())
    return [str(each) for each in texts]


@contextmanager
def split_batch() -> Iterator[None]:
    """Say that within, each process computes its own rows of one global batch: `batch_mean` then spans them all."""
    global _is_split
    before, _is_split = _is_split, count() > 1
    try:
        yield
    finally:
        _is_split = before


def is_split() -> bool:
    """Tell whether the batch at hand is a part of a global one."""
    return _is_split


def parts_of_batch() -> int:
    """Return over how many processes the batch at hand is split: a loss that sums over rows is multiplied by it."""
    return count() if _is_split else 1


def batch_mean(values: Tensor) -> Tensor:
    """Return a mean over the whole batch, given one of this process's equal part; without gradient."""
    return mean(values.detach().clone()) if _is_split else values


def mean(tensor: Tensor) -> Tensor:
    """Average a tensor over processes, in place."""
    if count() > 1:
        distributed.all_reduce(tensor)
        tensor /= count()
    return tensor


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over processes, so that all make the step of the global batch."""
    if count() > 1:
        _mean_in_buckets([parameter.grad for parameter in parameters if parameter.grad is not None])


def mean_running_statistics(model: nn.Module) -> None:
    """Average batch normalisation's running statistics: the mean of means and of variances, as flax does.

    A running average is linear, so that this is the same now and then as after every step.
    """
    if count() > 1:
        wanted = ("running_mean", "running_var")
        _mean_in_buckets([buffer for name, buffer in model.named_buffers() if name.endswith(wanted)])


def _mean_in_buckets(tensors: list[Tensor]) -> None:
    while tensors:
        bucket = [tensors.pop()]
        while tensors and tensors[-1].dtype == bucket[0].dtype and sum(t.numel() for t in bucket) < BUCKET:
            bucket.append(tensors.pop())
        flat = mean(torch.cat([tensor.reshape(-1) for tensor in bucket]))
        for tensor, values in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def copy_from_main(model: nn.Module) -> None:
    """Give every process the weights and buffers of the main one."""
    if count() > 1:
        for tensor in model.state_dict().values():
            values = tensor.contiguous()
            distributed.broadcast(values, 0)
            tensor.copy_(values)
