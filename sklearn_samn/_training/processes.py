"""Several processes that train one net together."""

import torch


def count_processes():
    """Those of the torch.distributed process group, one where there is none."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def rank():
    """Which of them this is, from zero on."""
    return torch.distributed.get_rank() if in_parallel() else 0


def in_parallel():
    """Whether this is one of several processes that train a network together."""
    return count_processes() > 1


def check_agreement(fingerprint):
    """Raise a ValueError in all processes unless each came with the same string.

    They would end with different networks, or wait for each other for ever.
    """
    if len(set(from_each(fingerprint))) > 1:
        raise ValueError(
            "The processes of the torch.distributed group were called with different "
            "rows, parameters or seeds; they train one network together and need the "
            "same of each, and random_state an int."
        )


def from_first(function):
    """What the function returns in the first process, or its error, in all of them."""
    if not in_parallel():
        return function()
    found = [None, None]
    if rank() == 0:
        try:
            found[0] = function()
        except Exception as error:
            found[1] = error
    torch.distributed.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def from_each(value):
    """The values that the processes came with, by their rank."""
    if not in_parallel():
        return [value]
    found = [None] * count_processes()
    torch.distributed.all_gather_object(found, value)
    return found


def unite(net):
    """Give all processes the buffers of the first, and end their being parallel."""
    for buffer in net.module_.buffers():
        torch.distributed.broadcast(buffer, 0)
    net.parallel_ = None
