"""The same bits for the same seed: random streams, threads, subnormal numbers."""

import threading
from contextlib import contextmanager

import torch

# torch has one global random stream: two fits in two threads take turns.
_TORCH_STREAM = threading.RLock()
# The number of threads to restore, once for each block of one_thread that is open.
_BEFORE, _BEFORE_LOCK = [], threading.Lock()


@contextmanager
def reproducible(seed, device):
    """Seeded torch, the global streams put back afterwards, one CPU thread.

    Whatever dtype the user has made torch's default, and in whatever mode it is: the
    initial weights would be others, or get no gradient.

    One thread because the order of a sum, and so its last bits, would depend on the
    number of cores; layers of the sizes used here are no slower for it.
    """
    cuda = [device] if device.type == "cuda" else []
    fork = torch.random.fork_rng(devices=cuda)
    trainable = torch.inference_mode(False)
    with (
        _TORCH_STREAM,
        one_thread(),
        denormals_flushed(),
        float32_by_default(),
        fork,
        trainable,
    ):
        torch.manual_seed(seed)
        yield


@contextmanager
def float32_by_default():
    """Torch's own default dtype; the user's is put back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def one_thread():
    """One CPU thread for torch, the number before put back afterwards.

    Contexts of several threads may overlap: all restore the number that the first of
    them found.
    """
    with _BEFORE_LOCK:
        n_threads = _BEFORE[0] if _BEFORE else torch.get_num_threads()
        _BEFORE.append(n_threads)
        limit_this_thread()
    try:
        yield
    finally:
        with _BEFORE_LOCK:
            _BEFORE.pop()
            torch.set_num_threads(n_threads)


def limit_this_thread():
    """One CPU thread for torch in the calling thread.

    A new thread takes over torch's number of threads at the first use of it. Asking for
    the number is that first use: later it would undo the limit.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


@contextmanager
def denormals_flushed():
    """Numbers below 1e-38 are 0 in this thread; the setting is put back.

    A CPU is up to a hundred times slower on them, and a long training is full of them:
    weights of attention, moments of the optimizer.
    """
    flushed = torch.tensor(1e-39, dtype=torch.float32).mul(1).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
