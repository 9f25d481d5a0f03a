"""Predictions, batch by batch."""

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch

from .determinism import denormals_flushed, limit_this_thread, one_thread

# Batches of fewer rows are filled up: their products are summed in another order, and a
# row would get other last bits than among others.
FEWEST_ROWS = 16


def predict_batches(function, make_inputs, n_rows, batch_size=None, largest=2048):
    """Run ``function(make_inputs(slice))`` batch by batch, without gradients.

    Parameters
    ----------
    function : callable
        From a tensor to a tensor or a tuple of tensors and Nones.
    make_inputs : callable
        From a slice of rows to that tensor.
    n_rows : int
        Number of rows.
    batch_size : int, default=None
        Rows at a time; by default equal batches of 1,024 to ``largest``, of which each
        of two or four threads gets as many where that can be.
    largest : int, default=2048
        Most rows at a time by default; what is in between stays in the cache of a CPU.

    Returns
    -------
    ndarray, or tuple of ndarray and None
        The results, batches joined.
    """
    n_threads = torch.get_num_threads()
    if batch_size is None:
        n_batches = 4 * math.ceil(n_rows / (4 * largest))
        n_batches = max(min(n_batches, n_rows // 1024), 1)
        batch_size = max(math.ceil(n_rows / n_batches), 1)

    @torch.inference_mode()
    def run(start):
        return _on_padded_batch(function, make_inputs(slice(start, start + batch_size)))

    starts = range(0, n_rows, batch_size)
    with one_thread():
        parts = _map_in_threads(run, starts, min(n_threads, len(starts)))
    if isinstance(parts[0], tuple):
        return tuple(_join(part) for part in zip(*parts, strict=True))
    return _join(parts)


def _on_padded_batch(function, rows):
    """``function(rows)``; of few rows, each several times, the first results of it."""
    n_rows = len(rows)
    if n_rows >= FEWEST_ROWS:
        return function(rows)
    again = torch.arange(FEWEST_ROWS, device=rows.device) % n_rows
    results = function(rows[again])
    if isinstance(results, tuple):
        return tuple(None if part is None else part[:n_rows] for part in results)
    return results[:n_rows]


def _map_in_threads(function, values, n_threads):
    """A thread a batch, not threads within a batch: the same bits on any machine.

    The calling thread is one of them: a new one has to ask the system for its memory.
    """
    results = [None] * len(values)
    waiting = iter(enumerate(values))

    def work():
        limit_this_thread()
        with denormals_flushed():
            for place, value in waiting:
                results[place] = function(value)

    with ThreadPoolExecutor(max(n_threads - 1, 1)) as pool:
        others = [pool.submit(work) for _ in range(n_threads - 1)]
        try:
            work()
        finally:
            # After an error, or Ctrl-C, nobody takes another.
            deque(waiting, maxlen=0)
        for other in others:
            other.result()
    return results


def _join(parts):
    if parts[0] is None:
        return None
    return torch.cat(parts).cpu().numpy()
