"""A training from the first epoch to the last: optimizer, schedule, callbacks."""

import math
from contextlib import nullcontext
from copy import deepcopy

import torch
from skorch.callbacks import Callback, GradientNormClipping, PrintLog
from skorch.helper import predefined_split
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm  # comes with skorch

from .batches import SlicedBatches
from .net import BestWeights, Net, StopTraining, diverged
from .processes import count_processes, rank, unite
from .recording import can_record, recorded_steps, training_stream

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


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
    user_params = _check_skorch_params(skorch_params or {})
    n_processes = count_processes() if data_parallel else 1
    if len(dataset) < n_processes:
        raise ValueError(
            f"There are {len(dataset)} training rows, fewer than the {n_processes} "
            f"processes that are to share them: start fewer."
        )
    share = {"rank": rank(), "n_processes": n_processes} if n_processes > 1 else {}
    # Each process looks at all of a hold-out that is too small to be shared.
    shared = share if valid is None or len(valid) >= n_processes else {}
    params = {
        **_optimizer_params(optimizer, weight_decay, device, user_params),
        "lr": lr,
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "iterator_train": dataset.iterator,
        "iterator_train__shuffle": True,
        "iterator_valid": SlicedBatches,
        **{f"iterator_train__{name}": value for name, value in share.items()},
        **{f"iterator_valid__{name}": value for name, value in shared.items()},
        "train_split": None if valid is None else predefined_split(valid),
        "device": device,
        "verbose": int(verbose > 1),
        **user_params,
        "callbacks": _callbacks(
            verbose, patience, checkpoint, max_grad_norm, user_params.get("callbacks")
        ),
    }
    net = Net(module, criterion, **params).initialize()
    if n_processes > 1:
        # Only its __call__: skorch would register the module as one more to be trained.
        net.parallel_ = DistributedDataParallel(net.module_).__call__
    if moments_of is not None:
        _take_moments(net.optimizer_, moments_of)
    n_steps = net.max_epochs * len(net.get_iterator(dataset, training=True))
    if lr_schedule == "one_cycle":
        net.schedule_ = LambdaLR(net.optimizer_, lambda step: one_cycle(step / n_steps))
    recorded = recordable and not user_params and n_processes == 1
    recorded = recorded and can_record(net, n_steps)
    recording = recorded_steps(net) if recorded else nullcontext()
    _run_epochs(net, dataset, recording, training_stream(device))
    if n_processes > 1:
        unite(net)
    # skorch's compile=True wraps it.
    net.module_ = getattr(net.module_, "_orig_mod", net.module_)
    net.module_.eval()
    if not all(value.isfinite().all() for value in net.module_.state_dict().values()):
        raise diverged(net.lr, "a weight is not finite")
    if checkpoint is not None:
        checkpoint.remove()
    return net


def _run_epochs(net, dataset, recording, stream):
    """The epochs that are missing; as in skorch's fit, but for who may stop them."""
    net.notify("on_train_begin", X=dataset, y=None)
    try:
        with recording, stream:
            net.fit_loop(dataset, epochs=net.max_epochs - len(net.history))
    except StopTraining:
        pass
    finally:
        net.notify("on_train_end", X=dataset, y=None)


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


def _check_skorch_params(user_params):
    """The user's parameters of skorch, or a ValueError that says which cannot be."""
    made = {"module", "criterion"} & {name.split("__")[0] for name in user_params}
    fed = {"train_split", "dataset", "iterator_train", "iterator_valid"}
    ours = sorted(made | fed.intersection(user_params))
    if ours:
        raise ValueError(
            f"skorch_params={user_params!r} holds {ours}, which the estimator itself "
            f"makes; leave them out."
        )
    callbacks = user_params.get("callbacks") or []
    if not isinstance(callbacks, (list, tuple)):
        raise ValueError(
            f"skorch_params={user_params!r}: callbacks must be a list of skorch "
            f"callbacks or None."
        )
    return user_params


def _take_moments(optimizer, before):
    """Go on from the moments of another of the same kind and as many groups."""
    if _layout(before) == _layout(optimizer):
        # A copy: the net before keeps its own, should this training fail.
        state = deepcopy(before.state_dict()["state"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _layout(optimizer):
    return type(optimizer), [len(group["params"]) for group in optimizer.param_groups]


def _optimizer_params(optimizer, weight_decay, device, user_params):
    """Our optimizer; nothing where the user brings one, which may know none of it."""
    if "optimizer" in user_params:
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
        callbacks.append(BestWeights(patience))
    if checkpoint is not None:
        # After the best weights, which it writes, before the bar, which it moves.
        callbacks.append(checkpoint)
    if verbose == 1:
        callbacks.append(ProgressBar())
    if verbose > 1:
        callbacks.append(PrintLog())
    return callbacks
