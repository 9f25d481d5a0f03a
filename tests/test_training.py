"""Batches, schedule, seeds, devices and callbacks of the one training loop."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.datasets import make_classification
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklearn_samn import MemNetKNNClassifier, _training
from sklearn_samn._base import stratified_holdout
from sklearn_samn._training import (
    BatchDataset,
    history_records,
    load_weights,
    one_thread,
    predict_batches,
    reproducible,
    resolve_device,
    training,
    weights_to_numpy,
    wrap,
)
from sklearn_samn._training.batches import SlicedBatches, n_batches
from sklearn_samn._training.predict import FEWEST_ROWS, _map_in_threads
from sklearn_samn._training.recording import RecordedSteps, in_place
from sklearn_samn._training.training import one_cycle
from sklearn_samn.modules import PrototypeMemory

CPU = torch.device("cpu")


class Linear(nn.Module):
    """A layer with a matrix and a bias, and a norm with two vectors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)

    def forward(self, x):
        return self.norm(self.linear(x))


class CrossEntropy(nn.Module):
    def forward(self, output, target):
        return nn.functional.cross_entropy(output, target["y"])


class Parameter(nn.Module):
    """A network that is one number, and counts what it has been trained on."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))
        self.register_buffer("n_steps", torch.tensor(0))

    def forward(self, x):
        self.n_steps += self.training
        return self.value


class Slope(nn.Module):
    """A step of size lr downwards in training, a parabola around a goal elsewhere."""

    def forward(self, output, target):
        if "goal" in target:
            return (output - target["goal"]).square().sum()
        return output.sum()


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    return x, (x[:, 0] > 0).long()


@pytest.fixture
def dataset(rows):
    x, y = rows
    return BatchDataset(len(x), lambda i: ({"x": x[i]}, {"y": y[i]}))


def one_row(**target):
    """A data set of one row, so one step an epoch."""
    target = {"y": torch.zeros(1), **target}
    return BatchDataset(1, lambda i: ({"x": torch.zeros(1, 1)}, target))


def train(module, criterion, dataset, **params):
    params = {
        "lr": 0.1,
        "lr_schedule": "constant",
        "max_epochs": 3,
        "batch_size": 8,
        "optimizer": "adamw",
        "weight_decay": 0.0,
        "device": CPU,
        "verbose": 0,
        **params,
    }
    with reproducible(0, CPU):
        return _training.train(module, criterion, dataset, **params)


def descend(goal=-3.0, **params):
    """Training of a number that falls by one an epoch, past its goal."""
    params = {"lr": 1.0, "optimizer": "sgd", "max_epochs": 20, **params}
    valid = one_row(goal=torch.tensor(goal))
    return train(Parameter(), Slope(), one_row(), valid=valid, **params)


# ------------------------------------------------------------------------- batches


def indices(n_rows, batch_size, shuffle=False):
    """The row indices of each batch."""
    rows = BatchDataset(n_rows, lambda index: index.tolist())
    return list(SlicedBatches(rows, batch_size, shuffle=shuffle))


def flat(batches):
    return [index for batch in batches for index in batch]


SIZES = [(n, b) for n in (2, 3, 5, 16, 17, 33, 100) for b in (1, 2, 3, 7, 16, 1000)]


@pytest.mark.parametrize("n_rows, batch_size", SIZES)
def test_batches_hold_every_row_once_in_order(n_rows, batch_size):
    assert flat(indices(n_rows, batch_size)) == list(range(n_rows))


@pytest.mark.parametrize("n_rows, batch_size", SIZES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_sizes_of_batches(n_rows, batch_size, shuffle):
    sizes = [len(batch) for batch in indices(n_rows, batch_size, shuffle)]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    # No larger than asked for, but where that would leave single rows.
    assert max(sizes) <= max(batch_size, 3)
    assert len(sizes) == n_batches(n_rows, batch_size)
    assert len(SlicedBatches(BatchDataset(n_rows, None), batch_size)) == len(sizes)


@pytest.mark.parametrize(
    "n_rows, batch_size, sizes",
    [
        (10, 5, [5, 5]),
        (11, 5, [4, 4, 3]),
        (33, 16, [11, 11, 11]),
        (5, 1, [3, 2]),
        (4, 100, [4]),
        (1, 8, [1]),
    ],
)
def test_sizes_by_hand(n_rows, batch_size, sizes):
    assert [len(batch) for batch in indices(n_rows, batch_size)] == sizes


def test_shuffled_batches_hold_every_row_once():
    batches = indices(33, 8, shuffle=True)
    assert sorted(flat(batches)) == list(range(33))
    assert flat(batches) != list(range(33))


def test_each_epoch_has_an_order_that_the_seed_repeats():
    batches = SlicedBatches(BatchDataset(33, lambda i: i.tolist()), 8, shuffle=True)

    def two_epochs(seed):
        with reproducible(seed, CPU):
            return list(batches), list(batches)

    first, second = two_epochs(0)
    assert first != second
    assert two_epochs(0) == (first, second)
    assert two_epochs(1) != (first, second)


# ------------------------------------------------------------------------ schedule


def test_one_cycle():
    rising = {0: 0.01, 0.0005: 0.01, 0.025: 0.25, 0.05: 0.5, 0.1: 1}
    # (1 + cos(pi / 3)) / 2 and so on.
    falling = {0.4: 0.75, 0.55: 0.5, 0.7: 0.25, 1: 0}
    for progress, share in {**rising, **falling}.items():
        assert one_cycle(progress) == pytest.approx(share, abs=1e-15)
    assert one_cycle(0.2, warm_up=0.4) == 0.5
    assert one_cycle(0.7, warm_up=0.4) == pytest.approx(0.5)


class Rates(Callback):
    """The learning rate of every step."""

    def __init__(self):
        self.rates = []

    def on_batch_begin(self, net, training=False, **kwargs):
        if training:
            self.rates += {group["lr"] for group in net.optimizer_.param_groups}


def rates(dataset, **params):
    """Learning rates of 4 steps an epoch; the two groups of AdamW have but one."""
    seen = Rates()
    skorch_params = {"callbacks": [seen], **params.pop("skorch_params", {})}
    params = {"batch_size": 5, "weight_decay": 0.1, **params}
    train(Linear(), CrossEntropy(), dataset, skorch_params=skorch_params, **params)
    return seen.rates


def test_learning_rate_of_every_step(dataset):
    seen = rates(dataset, lr=0.2, lr_schedule="one_cycle", max_epochs=5)
    assert len(seen) == 20
    assert seen[0] == pytest.approx(0.2 * 0.01)
    assert seen[1] == pytest.approx(0.2 * 0.5)
    assert max(seen) == seen[2] == pytest.approx(0.2)
    assert seen == pytest.approx([0.2 * one_cycle(step / 20) for step in range(20)])
    assert 0 < seen[-1] < 0.2 * 0.01


def test_the_hold_out_takes_no_step_of_the_schedule(dataset):
    seen = rates(
        dataset, valid=dataset, patience=9, lr_schedule="one_cycle", max_epochs=5
    )
    assert seen == pytest.approx([0.1 * one_cycle(step / 20) for step in range(20)])


def test_constant_learning_rate(dataset):
    assert rates(dataset, lr=0.2, max_epochs=2) == [0.2] * 8


@pytest.mark.parametrize("max_epochs", [2, 10])
def test_the_schedule_ends_with_the_epochs_of_skorch_params(dataset, max_epochs):
    skorch_params = {"max_epochs": max_epochs}
    seen = rates(
        dataset, lr_schedule="one_cycle", max_epochs=5, skorch_params=skorch_params
    )
    assert len(seen) == 4 * max_epochs
    assert seen[-1] == min(seen[2:])
    assert seen[-1] < 0.05 * max(seen)


# ---------------------------------------------------------------- seeds and threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_global_stream_and_the_threads_are_put_back(two_threads):
    state = torch.get_rng_state()
    with reproducible(0, CPU):
        torch.rand(3)
        assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2


def test_they_are_put_back_after_an_exception(two_threads):
    state = torch.get_rng_state()
    with pytest.raises(KeyError), reproducible(0, CPU):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2


@pytest.fixture
def another_in_one_thread():
    """A thread that is in ``one_thread``, and the call that lets it leave."""
    inside, leave = threading.Event(), threading.Event()
    found = []

    def run():
        with one_thread():
            inside.set()
            assert leave.wait(10)
            found.append(torch.get_num_threads())

    thread = threading.Thread(target=run)

    def enter():
        thread.start()
        assert inside.wait(10)

    def end():
        leave.set()
        thread.join()
        return found

    return enter, end


def test_the_number_of_threads_is_put_back_by_the_last_of_several(
    two_threads, another_in_one_thread
):
    enter, end = another_in_one_thread
    with one_thread():
        enter()
        assert torch.get_num_threads() == 1
    end()
    found = []
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert found == [torch.get_num_threads()] == [2]


def test_a_new_thread_keeps_its_limit_when_another_leaves(
    two_threads, another_in_one_thread
):
    """Torch sets up a thread late, with the number that some thread set last."""
    enter, end = another_in_one_thread
    with one_thread():
        enter()
    assert end() == [1]
    assert torch.get_num_threads() == 2


def denormals_live():
    return torch.tensor(1e-39).mul(1).item() > 0


@pytest.fixture
def denormals():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def test_denormals_are_flushed_in_training_only(denormals):
    with reproducible(0, CPU):
        assert not denormals_live()
    assert denormals_live()
    with pytest.raises(KeyError), reproducible(0, CPU):
        raise KeyError
    assert denormals_live()
    torch.set_flush_denormal(True)
    with reproducible(0, CPU):
        pass
    assert not denormals_live()
    torch.set_default_dtype(torch.float64)
    try:
        with reproducible(0, CPU):
            pass
    finally:
        torch.set_default_dtype(torch.float32)
    assert not denormals_live()


def test_denormals_are_flushed_in_prediction(denormals):
    tiny = torch.tensor([1e-39, 1.0])
    flushed = predict_batches(lambda x: x.mul(1e3), lambda rows: tiny[rows], 2)
    assert flushed.tolist() == [0, 1e3]
    assert denormals_live()


def draws(seed):
    with reproducible(seed, CPU):
        return torch.rand(4).tolist()


def test_a_seed_means_its_draws():
    torch.manual_seed(3)
    first = draws(0)
    torch.manual_seed(4)
    assert draws(0) == first
    assert draws(1) != first


def test_two_threads_take_turns():
    inside, go_on, results = threading.Event(), threading.Event(), {}

    def slow():
        with reproducible(0, CPU):
            head = torch.rand(2).tolist()
            inside.set()
            assert go_on.wait(10)
            results["slow"] = head + torch.rand(2).tolist()

    def fast():
        assert inside.wait(10)
        results["fast"] = draws(1)

    threads = [threading.Thread(target=target) for target in (slow, fast)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    threads[1].join(0.1)
    waited = "fast" not in results
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert waited
    assert results == {"slow": draws(0), "fast": draws(1)}


def test_training_repeats_under_its_seed(dataset):
    def weights():
        with reproducible(0, CPU):
            module = Linear()
            return weights_to_numpy(train(module, CrossEntropy(), dataset))

    first, second = weights(), weights()
    for name in first:
        assert (first[name] == second[name]).all()


# -------------------------------------------------------------------------- device


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_devices_without_a_gpu(without_gpu):
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", "mps", "meta"])
def test_a_device_that_is_not_there(without_gpu, device):
    message = f"device='{device}' is not available .* use device='auto'.*device='cpu'"
    with pytest.raises(ValueError, match=message):
        resolve_device(device)


@pytest.mark.parametrize("device", ["gpu", "", "CUDA", "cuda:one"])
def test_an_unknown_device(device):
    message = f"device='{device}' is unknown; use 'auto', 'cpu', 'cuda', 'cuda:1'"
    with pytest.raises(ValueError, match=message):
        resolve_device(device)


def test_devices_with_one_gpu(one_gpu):
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    assert resolve_device("mps") == torch.device("mps")
    assert resolve_device("cpu") == CPU
    with pytest.raises(ValueError, match="device='cuda:1' is not available"):
        resolve_device("cuda:1")


# ---------------------------------------------------------------------- divergence


class NotANumber(nn.Module):
    def forward(self, output, target):
        return output.sum() * float("nan")


class Root(nn.Module):
    """Zero at zero, where its slope is infinite."""

    def forward(self, output, target):
        return output.sqrt().sum()


def test_a_loss_of_nan_names_lr():
    message = (
        "Training diverged: the train loss of an epoch is nan. Lower lr .now 0.1[)]"
    )
    with pytest.raises(ValueError, match=message):
        train(Parameter(), NotANumber(), one_row())


def test_a_hold_out_loss_of_infinity_names_lr():
    message = "the valid loss of an epoch is inf. Lower lr .now 1.0[)]"
    with pytest.raises(ValueError, match=message):
        descend(goal=float("inf"), patience=3)


def test_a_weight_that_left_the_finite_numbers_names_lr():
    # The loss of the only epoch is finite, the step after it is not.
    message = "Training diverged: a weight is not finite. Lower lr .now 0.125[)]"
    with pytest.raises(ValueError, match=message):
        train(Parameter(), Root(), one_row(), optimizer="sgd", lr=0.125, max_epochs=1)


def test_the_error_names_the_lr_of_skorch_params():
    with pytest.raises(ValueError, match=r"Lower lr .now 0.25."):
        train(
            Parameter(), NotANumber(), one_row(), lr=0.125, skorch_params={"lr": 0.25}
        )


def test_the_error_after_training_names_the_lr_of_skorch_params():
    with pytest.raises(ValueError, match=r"Lower lr .now 0.25."):
        train(
            Parameter(),
            Root(),
            one_row(),
            optimizer="sgd",
            max_epochs=1,
            lr=0.125,
            skorch_params={"lr": 0.25},
        )


def test_too_large_a_learning_rate_diverges(dataset):
    class Square(nn.Module):
        def forward(self, output, target):
            return (output[:, 0] - 1).square().mean()

    module = nn.Linear(3, 2)
    module.forward = lambda x: nn.Linear.forward(module, x)
    with pytest.raises(ValueError, match=r"Lower lr .now 1000000.0."):
        train(module, Square(), dataset, optimizer="sgd", lr=1e6)


# ------------------------------------------------------------- stopping and the best


def test_best_weights_come_back_after_patience():
    # The number falls from 0 to -1, -2, ...; hold-out losses 4, 1, 0, 1, 4.
    net = descend(goal=-3.0, patience=2)
    assert net.history[:, "valid_loss"] == [4, 1, 0, 1, 4]
    assert net.module_.value.item() == -3
    assert net.module_.n_steps == 3


def test_best_weights_come_back_where_the_epochs_end_first():
    net = descend(goal=-3.0, patience=10, max_epochs=6)
    assert len(net.history) == 6
    assert net.module_.value.item() == -3


def test_a_loss_as_good_as_the_best_is_no_better():
    # Losses 2.25, 0.25, 0.25, 2.25: the third epoch is the first without a better one.
    net = descend(goal=-2.5, patience=2)
    assert net.history[:, "valid_loss"] == [2.25, 0.25, 0.25, 2.25]
    assert net.module_.value.item() == -2


def test_without_a_hold_out_the_last_weights_stay():
    net = train(Parameter(), Slope(), one_row(), lr=1.0, optimizer="sgd", max_epochs=4)
    assert net.module_.value.item() == -4


@pytest.mark.parametrize("patience", [None, 50])
def test_early_stopping_of_skorch_stops(patience):
    stopping = EarlyStopping(patience=2, threshold=0)
    net = descend(patience=patience, skorch_params={"callbacks": [stopping]})
    # Losses 4, 1, 0, 1, 4: two epochs without a better one.
    assert len(net.history) == 5
    assert net.module_.value.item() == (-5 if patience is None else -3)


class Interrupted(nn.Module):
    """Somebody presses Ctrl-C in the second epoch."""

    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def forward(self, output, target):
        self.n_calls += 1
        if self.n_calls > 1:
            raise KeyboardInterrupt
        return output.sum()


class InterruptedCallback(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_a_real_interrupt_goes_through_early_stopping():
    stopping = EarlyStopping(monitor="train_loss")
    with pytest.raises(KeyboardInterrupt):
        train(
            Parameter(),
            Interrupted(),
            one_row(),
            skorch_params={"callbacks": [stopping]},
        )


def test_an_interrupt_of_a_callback_goes_through():
    with pytest.raises(KeyboardInterrupt):
        descend(skorch_params={"callbacks": [InterruptedCallback()]})


# ----------------------------------------------------------------------- optimizers


class Nothing(nn.Module):
    """A loss without a slope."""

    def forward(self, output, target):
        return 0 * output.sum()


def before_and_after(dataset, **params):
    """Weights before and after two steps of size 0.1 on a loss without a slope."""
    module = Linear()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(2.0)
    net = train(module, Nothing(), dataset, batch_size=10, max_epochs=1, **params)
    return {name: float(value.mean()) for name, value in weights_to_numpy(net).items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_matrices_decay(dataset, optimizer):
    after = before_and_after(dataset, optimizer=optimizer, weight_decay=0.5)
    # Two steps of a decay of lr * weight_decay = 0.05.
    assert after.pop("linear.weight") == pytest.approx(2 * 0.95**2, rel=1e-6)
    assert after == {"linear.bias": 2, "norm.weight": 2, "norm.bias": 2}


def test_adam_takes_the_decay_of_matrices_as_a_slope(dataset):
    after = before_and_after(dataset, optimizer="adam", weight_decay=0.5)
    # Adam's first steps are of size lr, whatever the slope.
    assert after.pop("linear.weight") == pytest.approx(2 - 2 * 0.1, rel=1e-3)
    assert after == {"linear.bias": 2, "norm.weight": 2, "norm.bias": 2}


def test_without_decay_nothing_decays(dataset):
    assert set(before_and_after(dataset, weight_decay=0.0).values()) == {2}


def test_an_optimizer_of_ones_own_gets_no_options_it_may_not_know(dataset):
    # Rprop knows neither weight_decay nor fused.
    net = train(
        Linear(),
        CrossEntropy(),
        dataset,
        lr=0.02,
        weight_decay=0.5,
        skorch_params={
            "optimizer": torch.optim.Rprop,
            "optimizer__step_sizes": (1e-5, 2.0),
        },
    )
    assert type(net.optimizer_) is torch.optim.Rprop
    (group,) = net.optimizer_.param_groups
    assert (group["lr"], group["step_sizes"]) == (0.02, (1e-5, 2.0))


def test_an_optimizer_of_ones_own_gets_its_options(dataset):
    # RMSprop turns the decay into a slope; without one, nothing moves.
    own = {"optimizer": torch.optim.RMSprop, "optimizer__weight_decay": 0.5}
    after = before_and_after(dataset, weight_decay=0.25, skorch_params=own)
    assert after.pop("linear.weight") < 1.9
    assert after == {"linear.bias": 2, "norm.weight": 2, "norm.bias": 2}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
    ],
)
def test_optimizer_by_name_is_fused(dataset, name, expected):
    net = train(Linear(), CrossEntropy(), dataset, optimizer=name, max_epochs=1)
    assert type(net.optimizer_) is expected
    assert all(group["fused"] for group in net.optimizer_.param_groups)


def test_options_of_the_optimizer_by_name(dataset):
    net = train(
        Linear(),
        CrossEntropy(),
        dataset,
        optimizer="sgd",
        weight_decay=0.25,
        skorch_params={"optimizer__momentum": 0.5, "optimizer__fused": False},
    )
    matrices, vectors = net.optimizer_.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.25, 0)
    assert matrices["momentum"] == vectors["momentum"] == 0.5
    assert not matrices["fused"] and not vectors["fused"]
    assert [p.ndim for p in matrices["params"]] == [2]
    assert [p.ndim for p in vectors["params"]] == [1, 1, 1]


def continued(module, dataset, before=None):
    """One epoch in one batch, so that no order matters."""
    return train(
        module,
        CrossEntropy(),
        dataset,
        batch_size=20,
        max_epochs=1,
        weight_decay=0.1,
        moments_of=before and before.optimizer_,
    )


def moments(net):
    return net.optimizer_.state_dict()["state"]


def test_training_goes_on_from_the_moments_of_an_optimizer(dataset):
    with reproducible(0, CPU):
        start = Linear().state_dict()

    def fresh():
        module = Linear()
        module.load_state_dict(start)
        return module

    whole = train(
        fresh(),
        CrossEntropy(),
        dataset,
        batch_size=20,
        max_epochs=2,
        weight_decay=0.1,
    )
    module = fresh()
    halves = continued(module, dataset, continued(module, dataset))
    module = fresh()
    continued(module, dataset)
    restarted = continued(module, dataset)
    for name, value in weights_to_numpy(whole).items():
        assert_allclose(value, weights_to_numpy(halves)[name], rtol=1e-5, atol=1e-6)
    assert not np.allclose(
        weights_to_numpy(whole)["linear.weight"],
        weights_to_numpy(restarted)["linear.weight"],
        atol=1e-4,
    )


def test_going_on_leaves_the_moments_of_the_optimizer_before_alone(dataset):
    net = continued(Linear(), dataset)
    before = moments(net)
    kept = {i: {k: v.clone() for k, v in m.items()} for i, m in before.items()}
    continued(Linear(), dataset, net)
    for i, values in kept.items():
        for name, value in values.items():
            assert torch.equal(before[i][name], value)


# ---------------------------------------------------------------- skorch's own knobs


def test_skorch_params_go_before_ours(dataset):
    net = train(
        Linear(),
        CrossEntropy(),
        dataset,
        batch_size=5,
        skorch_params={"max_epochs": 2, "batch_size": 10, "lr": 0.5},
    )
    assert len(net.history) == 2
    assert net.optimizer_.param_groups[0]["lr"] == 0.5
    assert len(net.get_iterator(dataset, training=True)) == 2


def test_skorch_params_are_left_alone():
    callbacks = [Rates()]
    skorch_params = {"callbacks": callbacks, "max_epochs": 2}
    descend(patience=1, verbose=1, skorch_params=skorch_params)
    assert skorch_params == {"callbacks": callbacks, "max_epochs": 2}
    assert len(callbacks) == 1


def test_batches_are_shuffled_in_training_alone(rows):
    x, y = rows
    seen = []

    def batch(name):
        def make(index):
            seen.append((name, index.tolist()))
            return {"x": x[index]}, {"y": y[index]}

        return BatchDataset(20, make)

    train(
        Linear(),
        CrossEntropy(),
        batch("train"),
        valid=batch("valid"),
        patience=5,
        batch_size=10,
        max_epochs=2,
    )
    epochs = [
        [index for name, batch in seen[start : start + 4] for index in batch]
        for start in (0, 4)
    ]
    assert [name for name, _ in seen] == ["train", "train", "valid", "valid"] * 2
    assert all(sorted(epoch[:20]) == list(range(20)) for epoch in epochs)
    assert all(epoch[20:] == list(range(20)) for epoch in epochs)
    assert epochs[0][:20] != epochs[1][:20] != list(range(20))


# -------------------------------------------------------------- records and printing


class Mean(nn.Module):
    """The mean of the labels, whatever the network says."""

    def forward(self, output, target):
        return target["y"].mean() + 0 * output.sum()


def test_the_loss_of_an_epoch_is_the_mean_over_rows():
    # Batches of three and two rows: the mean of their means is another number.
    y = torch.tensor([0.0, 0.0, 0.0, 1.0, 5.0])
    rows = BatchDataset(5, lambda i: ({"x": i}, {"y": y[i]}))
    net = train(Parameter(), Mean(), rows, batch_size=3, valid=rows, patience=3)
    assert net.history[:, "train_loss"] == pytest.approx([1.2] * 3)
    assert net.history[:, "valid_loss"] == pytest.approx([1.2] * 3)


def test_history_has_one_record_an_epoch_and_none_a_batch(dataset):
    net = train(Linear(), CrossEntropy(), dataset, valid=dataset, patience=9)
    # One for all batches, which some of skorch's callbacks look for.
    assert [row["batches"] for row in net.history] == [[{}], [{}], [{}]]
    records = history_records(net)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert all(type(record) is dict for record in records)
    keys = {"epoch", "train_loss", "valid_loss", "dur"}
    assert all(set(record) == keys for record in records)
    plain = history_records(train(Linear(), CrossEntropy(), dataset))
    assert set(plain[0]) == {"epoch", "train_loss", "dur"}


class Mode(nn.Module):
    """One in training, nothing in evaluation."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))
        self.inner = nn.Dropout()

    def forward(self, x):
        assert self.inner.training == self.training
        return 0 * self.value + self.training


class Identity(nn.Module):
    def forward(self, output, target):
        return output.sum()


def test_training_and_hold_out_have_their_modes():
    net = train(Mode(), Identity(), one_row(), valid=one_row(), patience=9)
    assert net.history[:, "train_loss"] == [1, 1, 1]
    assert net.history[:, "valid_loss"] == [0, 0, 0]
    assert not net.module_.training
    assert not net.module_.inner.training


class Retaken:
    """In place of a CUDA graph: what is recorded is done again, on the CPU."""

    n_taken = 0

    def __init__(self, steps, step, inputs):
        self.again = lambda: in_place(steps.module, step, inputs)["loss"].detach()
        self.steps = steps
        self.loss = torch.zeros(())

    def replay(self):
        Retaken.n_taken += 1
        with self.steps._lr_on_device():
            self.loss.copy_(self.again())

    def reset(self):
        pass


def retake(steps, step, batch):
    inputs = [{name: a.clone() for name, a in part.items()} for part in batch]
    recording = Retaken(steps, step, inputs)
    return recording, inputs, {"loss": recording.loss}


def test_recorded_steps_see_each_batch_and_each_lr(dataset, monkeypatch):
    """Of both sizes: 20 rows in batches of 7, 7 and 6."""
    params = {"max_epochs": 12, "lr_schedule": "one_cycle", "lr": 0.01}

    def trained():
        torch.manual_seed(0)
        return train(Linear(), CrossEntropy(), dataset, **params)

    plain = trained()
    monkeypatch.setattr(training, "can_record", lambda net, n_steps: n_steps == 36)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(RecordedSteps, "_record", retake)
    monkeypatch.setattr(Retaken, "n_taken", 0)
    recorded = trained()
    assert Retaken.n_taken == 36 - 2 * 3
    expected = [record["train_loss"] for record in plain.history]
    losses = [record["train_loss"] for record in recorded.history]
    assert_allclose(losses, expected, rtol=1e-5)
    assert recorded.recorded_ is None
    for before, after in zip(
        plain.module_.parameters(), recorded.module_.parameters(), strict=True
    ):
        assert_allclose(after.detach(), before.detach(), rtol=1e-4)
    assert [g["lr"] for g in recorded.optimizer_.param_groups] == [
        g["lr"] for g in plain.optimizer_.param_groups
    ]


def test_buffers_that_a_step_replaces_stay_in_place():
    """A recorded step reads and writes where they were."""
    memory = PrototypeMemory(2, n_features=1, gate=1.0)
    outer = torch.nn.ModuleDict({"memory": memory})
    before = dict(outer.named_buffers())
    z, y = torch.tensor([[3.0], [4.0]]), torch.tensor([0, 1])
    in_place(outer, lambda z: memory(z, y, torch.ones(2)), z)
    after = dict(outer.named_buffers())
    assert all(after[name] is before[name] for name in before)
    assert before["memory.entries"].tolist() == [[3.0], [4.0]]
    assert before["memory.filled"].all()


def test_without_a_hold_out_the_module_ends_in_evaluation_too():
    module = train(Mode(), Identity(), one_row()).module_
    assert not module.training
    assert not module.inner.training


def test_silent(dataset, capsys):
    train(Linear(), CrossEntropy(), dataset, verbose=0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [0, 2])
def test_a_callback_speaks_where_there_is_a_table(capsys, verbose):
    stopping = EarlyStopping(patience=2, threshold=0)
    descend(verbose=verbose, skorch_params={"callbacks": [stopping]})
    out, err = capsys.readouterr()
    assert ("Stopping since valid_loss has not improved" in out) == (verbose > 1)
    assert bool(out) == (verbose > 1)
    assert err == ""


def test_bar_on_stderr(dataset, capsys):
    train(Linear(), CrossEntropy(), dataset, verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "fit" in err and "0/3" in err
    # The bar is wiped out at the end.
    assert err.endswith("\r")


def test_the_bar_ticks_by_the_epoch(dataset, capsys, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **kwargs):
            self.total, self.n, self.open = total, 0, True
            bars.append(self)

        def set_postfix(self, loss, refresh):
            self.loss = loss

        def update(self):
            self.n += 1

        def close(self):
            self.open = False

    monkeypatch.setattr(training, "tqdm", Bar)
    net = train(Linear(), CrossEntropy(), dataset, verbose=1)
    (bar,) = bars
    assert (bar.total, bar.n, bar.open) == (3, 3, False)
    assert bar.loss == f"{net.history[-1, 'train_loss']:.4g}"
    with pytest.raises(ValueError, match="diverged"):
        train(Parameter(), NotANumber(), one_row(), verbose=1)
    assert not bars[1].open


@pytest.mark.parametrize("verbose", [2, 3])
def test_table_on_stdout(dataset, capsys, verbose):
    train(Linear(), CrossEntropy(), dataset, valid=dataset, patience=9, verbose=verbose)
    out, err = capsys.readouterr()
    assert err == ""
    header, _, *lines = out.splitlines()
    assert header.split() == ["epoch", "train_loss", "valid_loss", "dur"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]


# ------------------------------------------------------------ weights and prediction


def test_weights_are_copies_that_can_be_put_back(dataset):
    net = train(Linear(), CrossEntropy(), dataset)
    weights = weights_to_numpy(net)
    assert all(type(value) is np.ndarray for value in weights.values())
    expected = net.module_(torch.ones(2, 3))
    copy = Linear()
    load_weights(copy, weights)
    with torch.no_grad():
        net.module_.linear.weight.zero_()
    assert torch.equal(copy(torch.ones(2, 3)), expected)
    assert (weights["linear.weight"] != 0).all()


def test_read_only_weights_are_copied():
    weights = {"value": np.array([2.0], np.float32), "n_steps": np.array(3)}
    weights["value"].flags.writeable = False
    module = Parameter()
    load_weights(module, weights)
    with torch.no_grad():
        module.value += 1
    assert weights["value"] == 2


def test_weights_of_no_dimension_survive():
    module = Parameter()
    module.n_steps += 5
    weights = weights_to_numpy(wrap(module, CPU))
    assert weights["n_steps"].shape == ()
    copy = Parameter()
    load_weights(copy, weights)
    assert copy.n_steps == 5


def test_wrap_is_for_prediction():
    net = wrap(Mode().train(), CPU)
    assert not net.module_.training
    assert net.module_(None).item() == 0


def test_prediction_by_the_batch(two_threads):
    x = torch.arange(10.0).reshape(5, 2).requires_grad_()
    seen = []

    def function(rows):
        seen.append(len(rows))
        assert set(rows[:, 0].tolist()) <= {0, 2, 4, 6, 8}
        assert torch.get_num_threads() == 1
        assert torch.is_inference_mode_enabled()
        return 2 * rows

    result = predict_batches(function, lambda rows: x[rows], 5, batch_size=2)
    # Of few rows each comes several times, so that their products are as others'.
    assert seen == [FEWEST_ROWS] * 3
    assert type(result) is np.ndarray
    assert result.tolist() == [[0, 2], [4, 6], [8, 10], [12, 14], [16, 18]]
    assert torch.get_num_threads() == 2


def test_prediction_works_in_as_many_threads_as_torch_has(two_threads):
    # Nobody gets past it alone.
    both = threading.Barrier(2, timeout=10)

    def function(rows):
        both.wait()
        return rows

    result = predict_batches(function, lambda rows: torch.arange(8)[rows], 8, 1)
    assert result.tolist() == list(range(8))


def test_each_thread_of_a_prediction_multiplies_on_one_core(two_threads, monkeypatch):
    # What torch's library of matrix products has is a setting of each thread, and not
    # to be read from outside.
    limited, seen, both = set(), set(), threading.Barrier(2, timeout=10)
    limit = torch.set_num_threads

    def set_num_threads(number):
        limit(number)
        limited.add((threading.get_ident(), number))

    def function(rows):
        both.wait()
        seen.add((threading.get_ident(), 1))
        return rows

    monkeypatch.setattr(torch, "set_num_threads", set_num_threads)
    predict_batches(function, lambda rows: torch.arange(2)[rows], 2, 1)
    assert len(seen) == 2
    assert seen <= limited


def test_no_batch_is_taken_after_an_error(two_threads):
    taken = []

    def function(rows):
        taken.append(rows[0].item())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        predict_batches(function, lambda rows: torch.arange(1000)[rows], 1000, 1)
    assert len(taken) <= 2


def test_prediction_of_a_pair():
    x = torch.arange(5.0)
    first, second = predict_batches(
        lambda rows: (rows, None), lambda rows: x[rows], 5, batch_size=2
    )
    assert first.tolist() == [0, 1, 2, 3, 4]
    assert second is None


def test_ctrl_c_beside_early_stopping_is_no_early_stop():
    class Interrupts(Callback):
        def on_batch_begin(self, net, **kwargs):
            raise KeyboardInterrupt

    callbacks = [EarlyStopping(monitor="train_loss"), Interrupts()]
    with pytest.raises(KeyboardInterrupt):
        descend(skorch_params={"callbacks": callbacks})


def test_gradients_are_cut(monkeypatch):
    lengths = []
    step = torch.optim.AdamW.step

    def note(optimizer, closure):
        loss = closure()
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        grads = [p.grad.norm() for p in parameters if p.grad is not None]
        lengths.append(float(torch.stack(grads).norm()))
        return step(optimizer, lambda: loss)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    X, y = make_classification(random_state=0)
    model = MemNetKNNClassifier(max_epochs=2, memory_size=16, random_state=0)
    model.set_params(max_grad_norm=0.5).fit(X, y)
    assert max(lengths) == pytest.approx(0.5, rel=1e-3)
    model.set_params(max_grad_norm=None).fit(X, y)
    assert max(lengths) > 1


def test_an_error_before_the_first_epoch_is_not_hidden(monkeypatch):
    @contextmanager
    def no_memory(net):
        raise RuntimeError("CUDA out of memory")
        yield

    monkeypatch.setattr(training, "can_record", lambda net, n_steps: True)
    monkeypatch.setattr(training, "recorded_steps", no_memory)
    X, y = make_classification(60, random_state=0)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        MemNetKNNClassifier(early_stopping=True).fit(X, y)


def test_a_callback_of_the_users_beside_that_of_the_best_weights():
    X, y = make_classification(60, random_state=0)
    stopping = EarlyStopping(monitor="train_loss")
    callbacks = [("best_weights", Callback()), ("early_stopping", stopping)]
    params = {"max_epochs": 2, "early_stopping": True, "random_state": 0}
    plain = MemNetKNNClassifier(**params).fit(X, y)
    model = MemNetKNNClassifier(**params, skorch_params={"callbacks": callbacks})
    assert model.fit(X, y).validation_scores_ == plain.validation_scores_
    assert dict(model.net_.callbacks_)["best_weights"] is callbacks[0][1]
    assert stopping.misses_ == 0


def test_after_an_error_nobody_takes_another_batch():
    taken = []

    def function(value):
        taken.append(value)
        if threading.current_thread() is threading.main_thread():
            raise ValueError("no")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="no"):
        _map_in_threads(function, range(1000), 2)
    assert len(taken) < 500


def test_the_bar_of_a_resumed_training_goes_on():
    bar = training.ProgressBar()
    bar.on_train_begin(SimpleNamespace(max_epochs=5, history=[{}, {}]))
    assert (bar.bar.n, bar.bar.total) == (2, 5)
    bar.on_train_end(None)


def test_a_hold_out_sees_the_same_memory_every_time(monkeypatch):
    make, held_out = MemNetKNNClassifier._make_datasets, []

    def spy(self, *args):
        datasets = make(self, *args)
        held_out.append(datasets[1])
        return datasets

    monkeypatch.setattr(MemNetKNNClassifier, "_make_datasets", spy)
    X, y = make_classification(200, random_state=0)
    MemNetKNNClassifier(early_stopping=True, max_epochs=1).fit(X, y)
    index = torch.arange(5)
    memories = [held_out[0][index][0]["memory"] for _ in range(2)]
    assert torch.equal(*memories)


def test_a_large_hold_out_leaves_a_row_of_each_class():
    y, rng = np.repeat([0, 1], [2, 20]), np.random.default_rng(0)
    train, valid = stratified_holdout(y, np.arange(22), 0.9, rng)
    assert np.bincount(y[train]).tolist() == [1, 2]
    assert np.bincount(y[valid]).tolist() == [1, 18]
