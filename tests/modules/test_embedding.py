"""The feature extractor layer by layer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_samn.modules import (
    SAMN,
    FeatureExtractor,
    MemoryNetwork,
    NeighborSequenceLoss,
    SAMNLoss,
    SampleNetwork,
    Seq2SeqNetwork,
    kernel_scores,
)
from sklearn_samn.modules.embedding import BatchNorm, Dropout, Mish

X = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)

ACTIVATIONS = {
    "relu": lambda s: max(s, 0.0),
    "silu": lambda s: s / (1 + math.exp(-s)),
    "mish": lambda s: s * math.tanh(math.log1p(math.exp(s))),
    "gelu": lambda s: s * (1 + math.erf(s / math.sqrt(2))) / 2,
    "tanh": math.tanh,
}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SAMNLoss(loss="hinge"), "loss='hinge' must be one of softmax, sq"),
        (lambda: SAMN(4, 3, head="Both"), "head='Both' must be one of distance, kern"),
        (lambda: SampleNetwork(4, 3, memory_size=2, head="x"), "head='x' must be one"),
        (lambda: NeighborSequenceLoss(vector_reduction="x"), "reduction='x' must be"),
        (lambda: Seq2SeqNetwork(4, 3, output="label"), "output='label' must be one"),
        (lambda: MemoryNetwork(4, 3, output="label"), "output='label' must be one of"),
        (lambda: Seq2SeqNetwork(4, 3, cell="rnn"), "cell='rnn' must be one of lstm"),
        (lambda: FeatureExtractor(4, (8,), activation="x"), "activation='x' must be"),
        (lambda: kernel_scores(*torch.ones(2, 3, 4), kernel="RBF"), "kernel='RBF'"),
    ],
)
def test_a_misspelt_option_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_two_layers_by_hand(activation):
    extract = FeatureExtractor(
        2, hidden_layer_sizes=(3, 1), activation=activation
    ).double()
    first, second = (layer for layer in extract if isinstance(layer, nn.Linear))
    function = np.vectorize(ACTIVATIONS[activation])

    def layer(rows, linear):
        weight, bias = (p.detach().numpy() for p in (linear.weight, linear.bias))
        return function(rows @ weight.T + bias)

    expected = layer(layer(X.numpy(), first), second)
    np.testing.assert_allclose(extract(X).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)]
)
def test_mish_is_torchs_to_its_derivative(dtype, tolerance):
    """Through zero, and far out, where exp has no number left."""
    x = torch.cat([torch.linspace(-5, 5, 101), torch.tensor([-200.0, 200.0])])
    x = x.to(dtype).requires_grad_()
    found, expected = (
        (f(x), *torch.autograd.grad(f(x).sum(), x)) for f in (Mish(), nn.Mish())
    )
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_order_of_a_layer_with_everything():
    extract = FeatureExtractor(
        2, hidden_layer_sizes=(4,), activation="relu", dropout=0.25, batch_norm=True
    )
    kinds = [nn.Linear, BatchNorm, nn.ReLU, Dropout]
    assert [type(layer) for layer in extract] == kinds
    # The batch norm shifts, so the linear layer need not.
    assert extract[0].bias is None
    assert extract[3].threshold == 64


def test_no_layers_pass_the_rows_on():
    extract = FeatureExtractor(2, hidden_layer_sizes=())
    assert torch.equal(extract(X), X)
    assert extract.out_features == 2


def test_out_features_is_the_width_of_the_last_layer():
    assert FeatureExtractor(2, hidden_layer_sizes=(7, 5)).out_features == 5


def test_a_single_row_is_normalised_by_the_running_statistics():
    norm = BatchNorm(2)
    norm(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    row = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(norm(row), (row - mean) / (var + norm.eps).sqrt())
    assert torch.equal(norm.running_mean, mean)
    # More rows are normalised by their own mean, and move the statistics.
    torch.testing.assert_close(norm(torch.ones(3, 2)), torch.zeros(3, 2))
    assert not torch.equal(norm.running_mean, mean)


@pytest.mark.parametrize("n_members", [None, 2])
def test_waves_before_the_layers(n_members):
    """Of the first columns alone, as x beside cos(w x + b)."""
    extract = FeatureExtractor(
        3, (5,), n_numeric=2, n_frequencies=4, n_members=n_members
    )
    waves, layer = extract[0], extract[1]
    members = () if n_members is None else (n_members,)
    x = torch.randn(*members, 6, 3)
    numbers = x[..., :2, None]
    expected = torch.cos(numbers * waves.frequency + waves.phase).flatten(-2)
    assert waves.frequency.shape == (*members, 1, 2, 4)
    z = waves(x)
    assert torch.equal(z[..., :3], x)
    assert torch.allclose(z[..., 3:], expected, atol=1e-6)
    assert layer.weight.numel() == 5 * 11 * (n_members or 1)
    assert extract(x).shape == (*members, 6, 5)
