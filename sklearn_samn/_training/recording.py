"""Steps of a training as CUDA graphs: recorded once, replayed as one launch."""

from collections import Counter
from contextlib import contextmanager
from functools import cache

import torch

# Eager steps of a size of batch before its graph is captured, so that what the first
# of them set up is no part of it. Trainings of fewer steps than the second have none.
STEPS_BEFORE_RECORDING, MIN_RECORDED_STEPS = 3, 30


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


def can_record(net, n_steps):
    on_gpu = next(net.module_.parameters()).is_cuda
    adam = isinstance(net.optimizer_, (torch.optim.Adam, torch.optim.AdamW))
    # Who looks for anomalies looks at the values of each step.
    looked_at = torch.is_anomaly_enabled()
    return on_gpu and adam and n_steps >= MIN_RECORDED_STEPS and not looked_at


@contextmanager
def recorded_steps(net):
    """The net's steps are recorded; the memory of that is given back."""
    net.recorded_ = RecordedSteps(net.module_, net.optimizer_)
    try:
        yield
    finally:
        net.recorded_.close()
        net.recorded_ = None


@cache
def _stream_of(index):
    """One for all trainings: CUDA's libraries keep a workspace for each they meet."""
    return torch.cuda.Stream(index)


@contextmanager
def training_stream(device):
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
