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
    return torch.distributed.get_rank() if count_processes() > 1 else 0


def in_parallel():
    """Whether this is one of several processes that train a network together."""
    return count_processes() > 1


def check_agreement(fingerprint):
    """Raise a ValueError in all processes unless each came with the same string.

    They would end with different networks, or wait for each other for ever.
    """
    if not in_parallel():
        return
    found = [None] * count_processes()
    torch.distributed.all_gather_object(found, fingerprint)
    if len(set(found)) > 1:
        raise ValueError(
            "The processes of the torch.distributed group were called with different "
            "rows, parameters or seeds; they train one network together and need the "
            "same of each, and random_state an int."
        )


def unite(net):
    """Give all processes the buffers of the first, and end their being parallel."""
    for buffer in net.module_.buffers():
        torch.distributed.broadcast(buffer, 0)
    net.parallel_ = None
