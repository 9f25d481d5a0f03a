"""skorch's net, and what goes in and out of it."""

import math
import traceback

import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, EpochTimer
from skorch.utils import noop


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
        if training:
            # One for all batches: some callbacks look for the last one's record.
            self.history.new_batch()
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


class BestWeights(EarlyStopping):
    """Stops after ``patience`` epochs without a better hold-out loss, and goes back."""

    def __init__(self, patience):
        super().__init__(patience=patience, threshold=0, sink=noop, load_best=True)

    def on_train_end(self, net, **kwargs):
        """Put the best weights back, if there was an epoch."""
        if net.history:
            super().on_train_end(net, **kwargs)


class StopTraining(Exception):
    """A callback has seen enough."""


def diverged(lr, what):
    """The error of a training that left the finite numbers."""
    return ValueError(
        f"Training diverged: {what}. Lower lr (now {lr}), or scale the features "
        f"where they are not scaled inside."
    )


def wrap(module, device):
    """A net around a trained module, for prediction."""
    return Net(
        module.eval(), torch.nn.Identity(), device=device, verbose=0
    ).initialize()


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
