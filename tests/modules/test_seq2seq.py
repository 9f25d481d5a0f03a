"""The recursion of the sequence network, unrolled from the matrices of its cells."""

import numpy as np
import pytest
import torch

from sklearn_samn.modules import MemoryNetwork, Seq2SeqNetwork, seq2seq
from sklearn_samn.modules.embedding import Dropout

N_FEATURES, N_CLASSES, HIDDEN = 3, 2, 4
X = np.random.default_rng(0).normal(size=(5, N_FEATURES))


def arrays(module):
    return [p.detach().numpy() for p in module.parameters()]


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def lstm(cell, x, state):
    """Gates in the order of torch: input, forget, cell, output."""
    w_x, w_h, b_x, b_h = arrays(cell)
    h, c = state
    i, f, g, o = np.split(x @ w_x.T + b_x + h @ w_h.T + b_h, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(cell, x, state):
    """Gates in the order of torch: reset, update, new."""
    w_x, w_h, b_x, b_h = arrays(cell)
    (h,) = state
    r_x, z_x, n_x = np.split(x @ w_x.T + b_x, 3, axis=1)
    r_h, z_h, n_h = np.split(h @ w_h.T + b_h, 3, axis=1)
    z = sigmoid(z_x + z_h)
    new = np.tanh(n_x + sigmoid(r_x + r_h) * n_h)
    return ((1 - z) * new + z * h,)


CELLS = {"lstm": (lstm, 2), "gru": (gru, 1)}


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def network(**params):
    torch.manual_seed(0)
    params = {"n_neighbors": 2, "hidden_size": HIDDEN, "temperature": 1.0, **params}
    return Seq2SeqNetwork(N_FEATURES, N_CLASSES, **params).double().eval()


def label_head(net, state, temperature):
    weight, bias = arrays(net.heads.label)
    return log_softmax((state @ weight.T + bias) / temperature)


def vector_head(net, state):
    w_1, b_1, w_2, b_2 = arrays(net.heads.vector)
    return np.maximum(state @ w_1.T + b_1, 0) @ w_2.T + b_2


def unroll(net, x, cell, *, temperature=1.0, feedback="labels"):
    """States, log-probabilities and vectors of each step."""
    step, n_parts = CELLS[cell]
    nothing = tuple(np.zeros((len(x), HIDDEN)) for _ in range(n_parts))
    state = step(net.encoder, x, nothing)
    context = state[0]
    fed = np.zeros((len(x), N_CLASSES if feedback == "labels" else N_FEATURES))
    states, log_probs, vectors = [], [], []
    for _ in range(net.n_neighbors):
        state = step(net.decoder, np.hstack([fed, context]), state)
        states.append(state[0])
        if net.heads.label is not None:
            log_probs.append(label_head(net, state[0], temperature))
        if net.heads.vector is not None:
            vectors.append(vector_head(net, state[0]))
        fed = np.exp(log_probs[-1]) if feedback == "labels" else vectors[-1]
    return states, log_probs, vectors


def assert_equal(tensor, expected):
    np.testing.assert_allclose(
        tensor.detach().numpy(), np.stack(expected, axis=1), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_two_steps_by_hand(cell, temperature):
    net = network(cell=cell, temperature=temperature, batch_norm=False)
    states, log_probs, vectors = unroll(net, X, cell, temperature=temperature)
    output = net(torch.from_numpy(X))
    assert_equal(net.decode(torch.from_numpy(X)), states)
    assert_equal(output.log_probs, log_probs)
    assert_equal(output.vectors, vectors)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_vectors_alone_are_fed_back(cell):
    net = network(cell=cell, output="vectors", n_neighbors=3, batch_norm=False)
    _, _, vectors = unroll(net, X, cell, feedback="vectors")
    output = net(torch.from_numpy(X))
    assert output.log_probs is None
    assert_equal(output.vectors, vectors)


def test_labels_alone():
    net = network(output="labels", n_neighbors=3, batch_norm=False)
    output = net(torch.from_numpy(X))
    assert output.vectors is None
    assert_equal(output.log_probs, unroll(net, X, "lstm")[1])


def test_input_is_normalised_and_goes_through_the_layers():
    net = network(hidden_layer_sizes=(6,), activation="tanh")
    mean, var = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1.0])
    scale, shift = np.array([2.0, 1.0, -1.0]), np.array([0.0, 0.5, 1.0])
    with torch.no_grad():
        net.normalize.running_mean.copy_(torch.from_numpy(mean))
        net.normalize.running_var.copy_(torch.from_numpy(var))
        net.normalize.weight.copy_(torch.from_numpy(scale))
        net.normalize.bias.copy_(torch.from_numpy(shift))
    weight, bias = arrays(net.extract[0])
    normalised = (X - mean) / np.sqrt(var + 1e-5) * scale + shift
    read = np.tanh(normalised @ weight.T + bias)
    _, log_probs, vectors = unroll(net, read, "lstm")
    output = net(torch.from_numpy(X))
    assert_equal(output.log_probs, log_probs)
    assert_equal(output.vectors, vectors)


@pytest.mark.parametrize("output", ["labels", "both"])
def test_the_label_path_is_that_of_forward(output, monkeypatch):
    net, x = network(output=output, n_neighbors=3), torch.from_numpy(X)
    # In parts, the last of them smaller.
    monkeypatch.setattr(seq2seq, "CACHED_ROWS", len(X) - 1)
    torch.testing.assert_close(net.label_probs(x), net(x).log_probs.exp().mean(1))


def test_log_probs_are_those_of_distributions():
    probabilities = network(n_neighbors=4)(torch.from_numpy(X)).log_probs.exp()
    assert probabilities.shape == (5, 4, N_CLASSES)
    torch.testing.assert_close(
        probabilities.sum(2), torch.ones(5, 4, dtype=torch.float64)
    )


def test_the_decoder_is_shared_over_the_steps():
    sizes = [
        sum(p.numel() for p in network(n_neighbors=k).parameters()) for k in (1, 7)
    ]
    assert sizes[0] == sizes[1]


def test_a_row_does_not_depend_on_the_others():
    net, x = network(), torch.from_numpy(X)
    together = net(x)
    for row in range(len(X)):
        alone = net(x[[row]])
        assert_equal(alone.log_probs, together.log_probs[[row]].detach().unbind(1))
        assert_equal(alone.vectors, together.vectors[[row]].detach().unbind(1))


def test_dropout_acts_on_context_and_states_in_training_only():
    net = network(dropout=0.5, batch_norm=False)
    x = torch.from_numpy(X)
    kept = net.decode(x)
    net.train()
    torch.manual_seed(0)
    states = net.decode(x)
    # Dropout on the states zeroes entries; that on the context, read by the decoder,
    # changes the others of the first step beyond the factor 1 / (1 - 0.5).
    assert (states == 0).any()
    assert not (kept == 0).any()
    left = states[:, 0] != 0
    assert not torch.allclose(states[:, 0][left], 2 * kept[:, 0][left])


@pytest.mark.parametrize("network", [Seq2SeqNetwork, MemoryNetwork])
def test_hidden_layers_have_half_the_dropout(network):
    module = network(4, 3, hidden_layer_sizes=(8,), dropout=0.5)
    halved = [m.threshold for m in module.extract if isinstance(m, Dropout)]
    # In 256ths.
    assert halved == [64]
    assert module.dropout.threshold == 128
