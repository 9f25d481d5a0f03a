"""The one place that knows skorch: a net, its batches, schedule, seed and device."""

import io
import math
import os
import threading
import traceback
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from functools import cache
from itertools import pairwise

import torch
from skorch import NeuralNet
from skorch.callbacks import (
    Callback,
    EarlyStopping,
    EpochTimer,
    GradientNormClipping,
    PrintLog,
)
from skorch.helper import predefined_split
from skorch.utils import noop
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm  # comes with skorch

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}

BEST_WEIGHTS = "best_weights"

# torch has one global random stream: two fits in two threads take turns.
_TORCH_STREAM = threading.RLock()
# The number of threads to restore, once for each block of one_thread that is open.
_BEFORE, _BEFORE_LOCK = [], threading.Lock()
# Batches of fewer rows are filled up: their products are summed in another order, and a
# row would get other last bits than among others.
FEWEST_ROWS = 16
# Steps of a size of batch that a GPU takes one kernel after the other before such a
# step is recorded: what the first of them set up is no part of it. Trainings of fewer
# steps than the second have none recorded.
STEPS_BEFORE_RECORDING, MIN_RECORDED_STEPS = 3, 30


def resolve_device(device):
    """The torch device a ``device`` parameter names.

    Parameters
    ----------
    device : str
        "auto", or a torch device such as "cpu", "cuda", "cuda:1" or "mps".

    Returns
    -------
    torch.device
        "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        If the name is unknown or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is unknown; use 'auto', 'cpu', 'cuda', 'cuda:1' or "
            f"'mps'."
        ) from error
    if not _is_available(resolved):
        raise ValueError(
            f"device={device!r} is not available on this machine; use device='auto', "
            f"which takes a GPU where there is one, or device='cpu'."
        )
    return resolved


def _is_available(device):
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


@contextmanager
def reproducible(seed, device):
    """Seeded torch, the global streams put back afterwards, one CPU thread.

    One thread because the order of a sum, and so its last bits, would depend on the
    number of cores; layers of the sizes used here are no slower for it.
    """
    cuda = [device] if device.type == "cuda" else []
    fork = torch.random.fork_rng(devices=cuda)
    with _TORCH_STREAM, one_thread(), denormals_flushed(), fork:
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread():
    """One CPU thread for torch, the number before put back afterwards.

    That is the number before the first of those who are in here at once: the others
    find its 1.
    """
    with _BEFORE_LOCK:
        n_threads = _BEFORE[0] if _BEFORE else torch.get_num_threads()
        _BEFORE.append(n_threads)
        _limit_this_thread()
    try:
        yield
    finally:
        with _BEFORE_LOCK:
            _BEFORE.pop()
            torch.set_num_threads(n_threads)


def _limit_this_thread():
    """One CPU thread for torch in the calling thread.

    The number is asked for first, for what that does: a thread new to torch takes the
    number that was set last, by any thread, the first time that it needs one. After
    the limit it would drop it again.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


@contextmanager
def denormals_flushed():
    """Numbers below 1e-38 are 0 in this thread, as before afterwards.

    A CPU is up to a hundred times slower on them, and a long training is full of them:
    weights of attention, moments of the optimizer.
    """
    flushed = torch.tensor(1e-39, dtype=torch.float32).mul(1).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


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


class Net(NeuralNet):
    """skorch's net with batches by slicing, epoch records and a schedule by the step.

    Its batches are (inputs, target), two dicts of tensors that are on the device.
    """

    schedule_ = None
    # In place of the module's call, where several processes train it together.
    parallel_ = None
    # In place of the steps one kernel after the other, on a GPU.
    recorded_ = None

    @property
    def _default_callbacks(self):
        return [("epoch_timer", EpochTimer())]

    def initialize_optimizer(self, triggered_directly=None):
        """As in skorch, but only matrices decay: norms and biases do not."""
        super().initialize_optimizer(triggered_directly)
        for group in list(self.optimizer_.param_groups):
            vectors = [p for p in group["params"] if p.ndim < 2]
            if group.get("weight_decay") and vectors:
                group["params"] = [p for p in group["params"] if p.ndim >= 2]
                self.optimizer_.add_param_group(
                    {**group, "params": vectors, "weight_decay": 0.0}
                )
        return self

    def notify(self, method_name, **cb_kwargs):
        """As in skorch, whose EarlyStopping stops by a KeyboardInterrupt."""
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyboardInterrupt as error:
            *_, (frame, _) = traceback.walk_tb(error.__traceback__)
            if isinstance(frame.f_locals.get("self"), EarlyStopping):
                raise StopTraining from error
            raise

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        """Open no record for the batch."""

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """One epoch, recorded by its mean loss; NaN ends the training."""
        if iterator is None:
            return
        total, n_rows = None, 0
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            loss, size = step["loss"].detach(), len(batch[1]["y"])
            # Stays on the device: reading the loss would wait for every batch.
            total = loss * size if total is None else total.add(loss, alpha=size)
            n_rows += size
            self.notify("on_batch_end", batch=batch, training=training, **step)
        total, n_rows = self._sum_over_processes(total, n_rows)
        loss = total / n_rows
        if not math.isfinite(loss):
            raise diverged(self.lr, f"the {prefix} loss of an epoch is {loss}")
        self.history.record(f"{prefix}_loss", loss)

    def _sum_over_processes(self, total, n_rows):
        if self.parallel_ is None:
            return float(total), n_rows
        sums = torch.stack([total, torch.full_like(total, n_rows)])
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def train_step(self, batch, **fit_params):
        """As in skorch, then a step of the schedule."""
        if self.recorded_ is None:
            step = super().train_step(batch, **fit_params)
        else:
            step = self.recorded_(super().train_step, batch)
        if self.schedule_ is not None:
            self.schedule_.step()
        return step

    def infer(self, x, **fit_params):
        """The module's output; the tensors are on the device already."""
        if self.parallel_ is not None and self.module_.training:
            return self.parallel_(**x)
        return self.module_(**x)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """The criterion; the tensors are on the device already."""
        return self.criterion_(y_pred, y_true)

    def _set_training(self, training=True):
        # skorch sets the mode before each batch; the walk over the modules costs as
        # much as a small layer.
        if self.module_.training is not training:
            super()._set_training(training)


class RecordedSteps:
    """Steps of training that a GPU is told at once: a CUDA graph a size of batch.

    The kernels of a small network are done sooner than they are asked for, one after
    the other. A recorded step runs the same kernels again: it must not decide by values
    on the device.

    Parameters
    ----------
    module : torch.nn.Module
        What the steps train. They may put other tensors in place of its buffers.
    optimizer : torch.optim.Adam or AdamW
        Fused. Its lr may change from step to step.
    """

    def __init__(self, module, optimizer):
        self.module = module
        self.optimizer = optimizer
        # Read from there by the recorded kernels.
        like = {"dtype": torch.float32, "device": next(module.parameters()).device}
        self.lr = [torch.zeros((), **like) for _ in optimizer.param_groups]
        self.n_taken = Counter()
        self.recordings = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step, batch):
        """The result of ``step(batch)``, whose loss the next call may overwrite."""
        size = len(batch[1]["y"])
        self.n_taken[size] += 1
        for lr, group in zip(self.lr, self.optimizer.param_groups, strict=True):
            lr.fill_(group["lr"])
        if self.n_taken[size] <= STEPS_BEFORE_RECORDING:
            with self._lr_on_device():
                return in_place(self.module, step, batch)
        if size not in self.recordings:
            self.recordings[size] = self._record(step, batch)
        graph, inputs, result = self.recordings[size]
        for known, new in zip(inputs, batch, strict=True):
            for name, values in known.items():
                values.copy_(new[name])
        graph.replay()
        return result

    def close(self):
        """Give back the memory of the recordings, once the steps are done."""
        self.optimizer.zero_grad()
        for graph, *_ in self.recordings.values():
            graph.reset()
        self.recordings.clear()

    def _record(self, step, batch):
        """A graph of the step, which is not taken, its inputs and its result."""
        inputs = [{name: a.clone() for name, a in part.items()} for part in batch]
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(
            graph,
            pool=self.pool,
            stream=torch.cuda.current_stream(),
            # Other threads may go on with theirs.
            capture_error_mode="thread_local",
        )
        with self._lr_on_device(capturable=True), recording:
            loss = in_place(self.module, step, inputs)["loss"].detach()
        return graph, inputs, {"loss": loss}

    @contextmanager
    def _lr_on_device(self, **changes):
        """The optimizer reads lr from there; ``changes`` of its groups besides."""
        groups = self.optimizer.param_groups
        before = [dict(group) for group in groups]
        for group, lr in zip(groups, self.lr, strict=True):
            group.update(changes, lr=lr)
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)


def in_place(module, step, batch):
    """The result of ``step(batch)``; the module's buffers stay where they were.

    The step itself may put new tensors in their place.
    """
    before = dict(module.named_buffers())
    result = step(batch)
    with torch.no_grad():
        for name, new in list(module.named_buffers()):
            if new is not before[name]:
                owner, _, own = name.rpartition(".")
                setattr(module.get_submodule(owner), own, before[name].copy_(new))
    return result


class StopTraining(Exception):
    """A callback has seen enough."""


class Checkpoint(Callback):
    """After each epoch all that training goes on from, in one file.

    Parameters
    ----------
    path : path
        The file. Training begins where it ends, if it is there.
    fingerprint : str
        Of what is trained; the file of another training is refused.
    rng : numpy.random.Generator
        What the batches draw from beside torch's stream.
    """

    def __init__(self, path, fingerprint, rng):
        self.path = os.fspath(path)
        self.fingerprint = fingerprint
        self.rng = rng

    def on_train_begin(self, net, **kwargs):
        """Go on from the file."""
        if not os.path.isdir(os.path.dirname(self.path) or "."):
            raise ValueError(
                f"The folder of checkpoint={self.path!r} is not there; make it first."
            )
        if _rank() == 0:
            check_writable(self.path)
        if not os.path.exists(self.path):
            return
        state = self._read()
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        if net.schedule_ is not None:
            net.schedule_.load_state_dict(state["schedule"])
        net.history.extend(state["history"])
        for best, values in zip(_best_weights(net), state["best"], strict=True):
            vars(best).update(values)
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], net.device)

    def _read(self):
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=False)
            fingerprint = state["fingerprint"]
        except Exception as error:
            raise ValueError(
                f"checkpoint={self.path!r} is no checkpoint that can be read "
                f"({error}); delete the file or name another."
            ) from error
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"checkpoint={self.path!r} was written by a fit with other parameters "
                f"or other data; delete the file or name another."
            )
        return state

    def on_epoch_end(self, net, **kwargs):
        """Write the file."""
        if _rank() > 0:
            return
        state = {
            "fingerprint": self.fingerprint,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "schedule": net.schedule_ and net.schedule_.state_dict(),
            "history": list(net.history),
            "best": [vars(best) for best in _best_weights(net)],
            "rng": self.rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": _cuda_rng_state(net.device),
        }
        content = io.BytesIO()
        torch.save(state, content)
        replace_file(self.path, content.getbuffer())

    def remove(self):
        """Delete the file, once there is nothing to go on with."""
        if _rank() > 0:
            return
        # Not there if the user's callback stopped the first epoch.
        with suppress(FileNotFoundError):
            os.remove(self.path)


def _cuda_rng_state(device):
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.get_rng_state(device)


def _best_weights(net):
    return [found for name, found in net.callbacks_ if name == BEST_WEIGHTS]


def check_writable(path):
    """Raise an OSError where :func:`replace_file` will not be able to write."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "ab"):
            pass
        os.remove(temporary)
    except OSError as error:
        raise OSError(f"checkpoint={path!r} cannot be written: {error}.") from error


def replace_file(path, content):
    """Write a file of which all is there under its name, or all that was before."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(temporary)
        raise OSError(
            f"{path!r} cannot be written: {error}. What was there before is intact."
        ) from error


class ProgressBar(Callback):
    """One bar on stderr, a tick an epoch."""

    def on_train_begin(self, net, **kwargs):
        """Open the bar."""
        self.bar = tqdm(
            total=net.max_epochs,
            initial=len(net.history),
            unit="epoch",
            desc="fit",
            leave=False,
        )

    def on_epoch_end(self, net, **kwargs):
        """Tick, with the loss."""
        self.bar.set_postfix(loss=f"{net.history[-1, 'train_loss']:.4g}", refresh=False)
        self.bar.update()

    def on_train_end(self, net, **kwargs):
        """Close the bar, also where training failed."""
        self.bar.close()


def train(
    module,
    criterion,
    dataset,
    *,
    lr,
    lr_schedule,
    max_epochs,
    batch_size,
    optimizer,
    weight_decay,
    device,
    verbose,
    valid=None,
    patience=None,
    moments_of=None,
    checkpoint=None,
    data_parallel=False,
    max_grad_norm=None,
    recordable=True,
    skorch_params=None,
):
    """Train a module through skorch.

    Parameters
    ----------
    module, criterion : torch.nn.Module
        What is trained, and its loss of (output, target).
    dataset : BatchDataset
        Training rows.
    lr, lr_schedule, max_epochs, batch_size, optimizer, weight_decay, verbose
        As in the estimators.
    device : torch.device
        Where it is trained; the tensors of the batches are there.
    valid : BatchDataset or None, default=None
        Rows of the hold-out.
    patience : int or None, default=None
        Epochs without a better hold-out loss before training stops.
    moments_of : torch.optim.Optimizer or None, default=None
        Optimizer whose moments to go on from, where it is of the same kind and has the
        same groups of parameters.
    checkpoint : Checkpoint or None, default=None
        Where training goes on from, and what it writes after each epoch; removed at
        the end.
    data_parallel : bool, default=False
        Whether the processes of a torch.distributed process group, where there is one,
        share the rows of each batch. Each calls this with the same arguments.
    max_grad_norm : float or None, default=None
        Length that gradients are cut to.
    recordable : bool, default=True
        Whether the module decides nothing by values on the device, so that on a GPU its
        steps can be recorded, see :class:`RecordedSteps`. They are where the optimizer
        is of Adam's kind, ``skorch_params`` brings nothing and one process trains.
    skorch_params : dict or None, default=None
        Parameters of :class:`skorch.NeuralNet` that go before ours; its callbacks
        come on top of ours.

    Returns
    -------
    Net
        The trained net.

    Raises
    ------
    ValueError
        If the loss or a weight is not finite.
    """
    users = _check_skorch_params(skorch_params or {})
    n_processes = _n_processes() if data_parallel else 1
    share = {"rank": _rank(), "n_processes": n_processes} if n_processes > 1 else {}
    params = {
        **_optimizer_params(optimizer, weight_decay, device, users),
        "lr": lr,
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "iterator_train": dataset.iterator,
        "iterator_train__shuffle": True,
        "iterator_valid": SlicedBatches,
        **{f"iterator_train__{name}": value for name, value in share.items()},
        **{f"iterator_valid__{name}": value for name, value in share.items()},
        "train_split": None if valid is None else predefined_split(valid),
        "device": device,
        "verbose": int(verbose > 1),
        **users,
        "callbacks": _callbacks(
            verbose, patience, checkpoint, max_grad_norm, users.get("callbacks")
        ),
    }
    net = Net(module, criterion, **params).initialize()
    if n_processes > 1:
        # Its call alone: skorch would take a module for another one to be trained.
        net.parallel_ = DistributedDataParallel(net.module_).__call__
    if moments_of is not None and _layout(moments_of) == _layout(net.optimizer_):
        # A copy: the net before keeps its own, should this training fail.
        state = deepcopy(moments_of.state_dict()["state"])
        net.optimizer_.load_state_dict({**net.optimizer_.state_dict(), "state": state})
    n_steps = net.max_epochs * len(net.get_iterator(dataset, training=True))
    if lr_schedule == "one_cycle":
        net.schedule_ = LambdaLR(net.optimizer_, lambda step: one_cycle(step / n_steps))
    recorded = recordable and not users and n_processes == 1
    recorded = recorded and _can_record(net, n_steps)
    net.notify("on_train_begin", X=dataset, y=None)
    try:
        with _recorded(net) if recorded else nullcontext(), _training_stream(device):
            net.fit_loop(dataset, epochs=net.max_epochs - len(net.history))
    except StopTraining:
        pass
    finally:
        net.notify("on_train_end", X=dataset, y=None)
    if n_processes > 1:
        _unite(net)
    net.module_.eval()
    if not all(value.isfinite().all() for value in net.module_.state_dict().values()):
        raise diverged(net.lr, "a weight is not finite")
    if checkpoint is not None:
        checkpoint.remove()
    return net


def _can_record(net, n_steps):
    on_gpu = next(net.module_.parameters()).is_cuda
    adam = isinstance(net.optimizer_, (torch.optim.Adam, torch.optim.AdamW))
    # Who looks for anomalies looks at the values of each step.
    looked_at = torch.is_anomaly_enabled()
    return on_gpu and adam and n_steps >= MIN_RECORDED_STEPS and not looked_at


@contextmanager
def _recorded(net):
    """The net's steps are recorded; the memory of that is given back."""
    net.recorded_ = RecordedSteps(net.module_, net.optimizer_)
    try:
        yield
    finally:
        net.recorded_.close()
        net.recorded_ = None


@cache
def _stream_of(index):
    """The same for each training: a library keeps memory for each stream it meets."""
    return torch.cuda.Stream(index)


@contextmanager
def _training_stream(device):
    """On a GPU a stream that is not the default, as recording needs.

    In the end all is done.
    """
    if device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    stream = _stream_of(index)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()


def _n_processes():
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def in_parallel():
    """Whether this is one of several processes that train a network together."""
    return _n_processes() > 1


def check_agreement(fingerprint):
    """Raise a ValueError in all processes unless each came with the same string.

    They would end with different networks, or wait for each other for ever.
    """
    if not in_parallel():
        return
    found = [None] * _n_processes()
    torch.distributed.all_gather_object(found, fingerprint)
    if len(set(found)) > 1:
        raise ValueError(
            "The processes of the torch.distributed group were called with different "
            "rows, parameters or seeds; they train one network together and need the "
            "same of each, and random_state an int."
        )


def _rank():
    return torch.distributed.get_rank() if _n_processes() > 1 else 0


def _unite(net):
    """Give all processes the buffers of the first, and end their being parallel."""
    for buffer in net.module_.buffers():
        torch.distributed.broadcast(buffer, 0)
    net.parallel_ = None


def one_cycle(progress, warm_up=0.1):
    """Share of lr after a share of the training: up in a line, down in a cosine.

    Examples
    --------
    >>> [round(one_cycle(progress), 2) for progress in (0, 0.05, 0.1, 0.55, 1)]
    [0.01, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def wrap(module, device):
    """A net around a trained module, for prediction."""
    return Net(
        module.eval(), torch.nn.Identity(), device=device, verbose=0
    ).initialize()


def _check_skorch_params(users):
    """The user's parameters of skorch, or a ValueError that says which cannot be."""
    made = {"module", "criterion"} & {name.split("__")[0] for name in users}
    fed = {"train_split", "dataset", "iterator_train", "iterator_valid"} & set(users)
    ours = sorted(made | fed)
    if ours:
        raise ValueError(
            f"skorch_params={users!r} holds {ours}, which the estimator itself makes; "
            f"leave them out."
        )
    callbacks = users.get("callbacks") or []
    if not isinstance(callbacks, (list, tuple)):
        raise ValueError(
            f"skorch_params={users!r}: callbacks must be a list of skorch callbacks or "
            f"None."
        )
    return users


def _layout(optimizer):
    return type(optimizer), [len(group["params"]) for group in optimizer.param_groups]


def _optimizer_params(optimizer, weight_decay, device, users):
    """Our optimizer; nothing where the user brings one, which may know none of it."""
    if "optimizer" in users:
        return {}
    return {
        "optimizer": OPTIMIZERS[optimizer],
        "optimizer__weight_decay": weight_decay,
        "optimizer__fused": device.type in ("cpu", "cuda"),
    }


def _callbacks(verbose, patience, checkpoint, max_grad_norm, users):
    callbacks = list(users or [])
    if max_grad_norm is not None:
        callbacks.append(GradientNormClipping(max_grad_norm))
    if patience is not None:
        stopping = EarlyStopping(
            patience=patience, threshold=0, sink=noop, load_best=True
        )
        callbacks.append((BEST_WEIGHTS, stopping))
    if checkpoint is not None:
        # After the best weights, which it writes, before the bar, which it moves.
        callbacks.append(checkpoint)
    if verbose == 1:
        callbacks.append(ProgressBar())
    if verbose > 1:
        callbacks.append(PrintLog())
    return callbacks


def diverged(lr, what):
    """The error of a training that left the finite numbers."""
    return ValueError(
        f"Training diverged: {what}. Lower lr (now {lr}), or scale the features "
        f"where they are not scaled inside."
    )


def weights_to_numpy(net):
    """The module's state as a dict of arrays."""
    state = net.module_.state_dict()
    return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}


def load_weights(module, weights):
    """Put a dict of arrays into a module."""
    # A copy: the arrays may be mapped from a file, read-only.
    module.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})


def history_records(net):
    """One plain dict an epoch: epoch, train_loss, valid_loss, dur."""
    return [{k: v for k, v in row.items() if k != "batches"} for row in net.history]


def predict_batches(function, make_inputs, n_rows, batch_size=None, largest=2048):
    """Run ``function(**make_inputs(slice))`` batch by batch without gradients.

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
        return _of_enough(function, make_inputs(slice(start, start + batch_size)))

    starts = range(0, n_rows, batch_size)
    with one_thread():
        parts = _map_in_threads(run, starts, min(n_threads, len(starts)))
    if isinstance(parts[0], tuple):
        return tuple(_join(part) for part in zip(*parts, strict=True))
    return _join(parts)


def _of_enough(function, rows):
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
        _limit_this_thread()
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
