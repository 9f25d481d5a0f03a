"""Batches by slicing tensors, in memory or read by the buffer."""

import math
from itertools import pairwise

import torch


class SlicedBatches:
    """Batches by slicing tensors, not by collating row after row.

    Parameters
    ----------
    dataset : BatchDataset
        The rows.
    batch_size : int
        Rows a batch. The sizes of the batches differ by at most one, so that none is
        too small for batch normalisation.
    shuffle : bool, default=False
        A new order each time.
    rank, n_processes : int, default=0 and 1
        Of each batch this process has the rows ``rank``, ``rank + n_processes``, ...;
        all processes have the same order.
    """

    def __init__(self, dataset, batch_size, shuffle=False, rank=0, n_processes=1):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.rank = rank
        self.n_processes = n_processes

    def __len__(self):
        return n_batches(len(self.dataset), self.batch_size, 2 * self.n_processes)

    def __iter__(self):
        n_rows = len(self.dataset)
        order = self._permutation(n_rows) if self.shuffle else torch.arange(n_rows)
        # All at once: each copy to a GPU would wait for the steps before.
        for index in order.to(self.dataset.device).tensor_split(len(self)):
            yield self.dataset[self._share(index)]

    def _permutation(self, n):
        order = torch.randperm(n)
        if self.n_processes > 1:
            # Dropout of unequal shares has moved the processes' streams apart.
            torch.distributed.broadcast(order, 0)
        return order

    def _share(self, index):
        return index[self.rank :: self.n_processes]


class BatchDataset(torch.utils.data.Dataset):
    """Rows asked for by the batch.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    make_batch : callable
        From a tensor of row indices to (inputs, target), two dicts of tensors.
    device : torch.device, default="cpu"
        Of all of these tensors.
    """

    iterator = SlicedBatches

    def __init__(self, n_rows, make_batch, device="cpu"):
        self.n_rows = n_rows
        self.make_batch = make_batch
        self.device = device

    def __len__(self):
        return self.n_rows

    def __getitem__(self, index):
        return self.make_batch(index.to(self.device))


class BufferedBatches(SlicedBatches):
    """Batches of a :class:`BufferDataset`: blocks in random order, rows within buffers.

    Each row comes once. The order of the blocks is uniform, and so is that of the rows
    within a buffer; rows whose blocks are in different buffers never share a batch, but
    for the one that a buffer leaves to the next.
    """

    def __iter__(self):
        data = self.dataset
        ends = [data.n_rows * i // len(self) for i in range(len(self) + 1)]
        sizes = [stop - start for start, stop in pairwise(ends)]
        rest = []
        for numbers in self._permutation(data.n_blocks).split(data.blocks_per_buffer):
            # In the order of the file: the rows are shuffled anyway.
            blocks = [*rest, *map(data.read, sorted(numbers.tolist()))]
            rows = [torch.cat(parts) for parts in zip(*blocks, strict=True)]
            # Else the next buffer is read beside this one.
            del blocks
            order = self._permutation(len(rows[0])).to(rows[0].device)
            dataset = data.make_dataset(*rows)
            while sizes and sizes[0] <= len(order):
                index, order = order[: sizes[0]], order[sizes.pop(0) :]
                yield dataset[self._share(index)]
            rest = [tuple(part[order] for part in rows)]
            del rows, dataset


class BufferDataset(torch.utils.data.Dataset):
    """Rows larger than memory, of which a buffer of several blocks is there at a time.

    Parameters
    ----------
    n_rows : int
        Number of rows in all blocks.
    n_blocks : int
        Number of blocks.
    blocks_per_buffer : int
        Blocks whose rows are in memory at once.
    read : callable
        From the number of a block to a tuple of tensors, a row each for each of its
        rows.
    make_dataset : callable
        From such tensors for the rows of a buffer to their :class:`BatchDataset`.
    """

    iterator = BufferedBatches

    def __init__(self, n_rows, n_blocks, blocks_per_buffer, read, make_dataset):
        self.n_rows = n_rows
        self.n_blocks = n_blocks
        self.blocks_per_buffer = blocks_per_buffer
        self.read = read
        self.make_dataset = make_dataset

    def __len__(self):
        return self.n_rows


def n_batches(n_rows, batch_size, least=2):
    """Batches an epoch: near batch_size rows each, and so many at least."""
    return max(min(math.ceil(n_rows / batch_size), n_rows // least), 1)
