"""The hops of the memory network from its matrices."""

import numpy as np
import pytest
import torch

from sklearn_samn.modules import MemoryNetwork

N_FEATURES, N_CLASSES, HIDDEN = 3, 2, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, N_FEATURES))
MEMORY = RNG.normal(size=(6, N_FEATURES))


def tensor(array):
    return torch.from_numpy(array)


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def network(**params):
    torch.manual_seed(0)
    params = {"n_neighbors": 2, "hidden_size": HIDDEN, **params}
    return MemoryNetwork(N_FEATURES, N_CLASSES, **params).double().eval()


def apply(linear, rows):
    return rows @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()


def hops(net, x, memory):
    """Log-probabilities, vectors and attention of each hop."""
    query = apply(net.embed_query, x)
    keys, values = apply(net.embed_key, memory), apply(net.embed_value, memory)
    log_probs, vectors, weights = [], [], []
    for _ in range(net.n_neighbors):
        p = softmax(query @ keys.T / np.sqrt(HIDDEN))
        query = apply(net.hop, query) + p @ values
        weights.append(p)
        label = softmax(apply(net.heads.label, query) / net.heads.temperature)
        log_probs.append(np.log(label))
        if net.heads.vector is not None:
            first, _, second = net.heads.vector
            vectors.append(apply(second, np.maximum(apply(first, query), 0)))
    return log_probs, vectors, weights


def assert_equal(result, expected):
    np.testing.assert_allclose(
        result.detach().numpy(), np.stack(expected, axis=1), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_two_hops_by_hand(temperature):
    net = network(batch_norm=False, temperature=temperature)
    log_probs, vectors, weights = hops(net, X, MEMORY)
    output = net(tensor(X), tensor(MEMORY))
    assert_equal(output.log_probs, log_probs)
    assert_equal(output.vectors, vectors)
    assert_equal(net.attend(net.query(tensor(X)), tensor(MEMORY)), weights)


def test_labels_alone():
    net = network(batch_norm=False, output="labels", n_neighbors=3)
    output = net(tensor(X), tensor(MEMORY))
    assert output.vectors is None
    assert_equal(output.log_probs, hops(net, X, MEMORY)[0])


def test_query_and_memory_are_normalised_and_go_through_the_same_layers():
    net = network(hidden_layer_sizes=(6,), activation="tanh")
    mean, var = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.25, 1.0])
    scale, shift = np.array([2.0, 1.0, -1.0]), np.array([0.0, 0.5, 1.0])
    with torch.no_grad():
        net.normalize.running_mean.copy_(tensor(mean))
        net.normalize.running_var.copy_(tensor(var))
        net.normalize.weight.copy_(tensor(scale))
        net.normalize.bias.copy_(tensor(shift))

    def read(rows):
        normalised = (rows - mean) / np.sqrt(var + 1e-5) * scale + shift
        return np.tanh(apply(net.extract[0], normalised))

    log_probs, vectors, weights = hops(net, read(X), read(MEMORY))
    output = net(tensor(X), tensor(MEMORY))
    assert_equal(output.log_probs, log_probs)
    assert_equal(output.vectors, vectors)
    assert_equal(net.attend(net.query(tensor(X)), tensor(MEMORY)), weights)


def test_the_label_path_is_that_of_forward():
    net = network()
    torch.testing.assert_close(
        net.label_probs(net.query(tensor(X)), tensor(MEMORY)),
        net(tensor(X), tensor(MEMORY)).log_probs.exp().mean(1),
    )


def test_masked_entries_are_as_if_they_were_not_there():
    net = network()
    masked = torch.zeros(len(X), len(MEMORY), dtype=torch.bool)
    masked[0, 1] = masked[0, 4] = masked[1, 0] = True
    output = net(tensor(X), tensor(MEMORY), masked)
    for row in range(len(X)):
        seen = MEMORY[~masked[row].numpy()]
        alone = net(tensor(X[[row]]), tensor(seen))
        assert_equal(alone.log_probs, output.log_probs[[row]].detach().unbind(1))
        assert_equal(alone.vectors, output.vectors[[row]].detach().unbind(1))


def test_a_masked_entry_gets_no_gradient_and_a_seen_one_does():
    net, memory = network(), tensor(MEMORY).requires_grad_()
    masked = torch.zeros(1, len(MEMORY), dtype=torch.bool)
    masked[0, 2] = True
    net(tensor(X[:1]), memory, masked).vectors.sum().backward()
    assert memory.grad[2].tolist() == [0, 0, 0]
    assert (memory.grad[[0, 1, 3, 4, 5]].abs().sum(1) > 0).all()


def test_a_mask_of_nothing_is_no_mask():
    net = network()
    nothing = torch.zeros(len(X), len(MEMORY), dtype=torch.bool)
    assert torch.equal(
        net(tensor(X), tensor(MEMORY), nothing).vectors,
        net(tensor(X), tensor(MEMORY)).vectors,
    )


def test_a_row_does_not_depend_on_the_others():
    net = network()
    together = net(tensor(X), tensor(MEMORY))
    for row in range(len(X)):
        alone = net(tensor(X[[row]]), tensor(MEMORY))
        assert_equal(alone.log_probs, together.log_probs[[row]].detach().unbind(1))
        assert_equal(alone.vectors, together.vectors[[row]].detach().unbind(1))


def test_the_order_of_the_memory_does_not_matter():
    net = network()
    forwards = net(tensor(X), tensor(MEMORY)).log_probs.detach()
    backwards = net(tensor(X), tensor(MEMORY[::-1].copy())).log_probs
    assert_equal(backwards, forwards.unbind(1))


def test_running_statistics_are_those_of_the_queries():
    net = network(dropout=0).train()
    net(tensor(X), tensor(100 * MEMORY))
    # The momentum of torch is 0.1, from mean 0 and variance 1.
    np.testing.assert_allclose(net.normalize.running_mean.numpy(), 0.1 * X.mean(axis=0))
    np.testing.assert_allclose(
        net.normalize.running_var.numpy(), 0.9 + 0.1 * X.var(axis=0, ddof=1)
    )
    assert net.normalize.num_batches_tracked == 1


def test_in_training_the_memory_is_normalised_by_the_running_statistics():
    net = network(dropout=0).train()
    log_probs = net(tensor(X), tensor(MEMORY)).log_probs
    query = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-5)
    mean = net.normalize.running_mean.numpy()
    deviation = np.sqrt(net.normalize.running_var.numpy() + 1e-5)
    expected = hops(net, query, (MEMORY - mean) / deviation)[0]
    assert_equal(log_probs, expected)


def test_dropout_acts_in_training_only():
    # Batch norm would tell the calls apart as well.
    net = network(dropout=0.5, batch_norm=False)
    arguments = tensor(X), tensor(MEMORY)
    assert torch.equal(net(*arguments).vectors, net(*arguments).vectors)
    net.train()
    assert not torch.equal(net(*arguments).vectors, net(*arguments).vectors)


def test_the_matrices_are_shared_over_the_hops():
    sizes = [
        sum(p.numel() for p in network(n_neighbors=k).parameters()) for k in (1, 7)
    ]
    assert sizes[0] == sizes[1]
