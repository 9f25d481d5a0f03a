"""The network as a whole, on memories and weights that are written down."""

import numpy as np
import pytest
import torch

from sklearn_samn.modules import SAMN

# Three classes in a space of width 4, whose square root is 2.
MEMORY = np.array([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [1.0, 1, 1, 1]])
X = np.array([[2.0, 0, 0, 0], [1.0, 1, 1, 1], [0.5, -1, 2, 0]])
Y = torch.tensor([0, 1, 2])


def samn(memory=None, *, n_classes=3, filled=None, **params):
    """A network without layers whose memory is given."""
    params = {"hidden_layer_sizes": (), "n_attention_blocks": 0, **params}
    torch.manual_seed(0)
    network = SAMN(4, n_classes, **params).double()
    if memory is not None:
        network.memory.entries.copy_(torch.tensor(memory))
        network.memory.filled.copy_(torch.tensor(filled or [True] * len(memory)))
    return network


def rows(x=X):
    return torch.from_numpy(np.asarray(x, dtype=float))


def squared_distances(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(axis=2)


def centered(scores):
    return scores - scores.mean(axis=1, keepdims=True)


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def layer_norm(z):
    """Layer normalisation at its initial scale and shift."""
    deviation = np.sqrt(z.var(axis=1, keepdims=True) + 1e-5)
    return (z - z.mean(axis=1, keepdims=True)) / deviation


def attend(z, memory, block):
    """One block of linear attention, from its matrices."""
    w_q, w_k, w_v = (
        linear.weight.detach().numpy().T
        for linear in (block.query, block.key, block.value)
    )
    weights = softmax((z @ w_q) @ (memory @ w_k).T / 2)
    return layer_norm(z + weights @ (memory @ w_v)), weights


def assert_equal(tensor, expected):
    np.testing.assert_allclose(
        tensor.detach().numpy(), expected, rtol=1e-11, atol=1e-11
    )


def test_distance_head():
    network = samn(MEMORY)
    with torch.no_grad():
        network.log_scale.fill_(np.log(3.0))
        network.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    # Of the first row: squared distances 0, 8, 4; over 2 and negative 0, -4, -2;
    # around their mean 2, -2, 0; three times that, plus the bias.
    assert_equal(network(rows()).logits[0], [6.5, -7.0, 2.0])
    scores = -squared_distances(X, MEMORY) / 2
    assert_equal(network(rows()).logits, 3 * centered(scores) + [0.5, -1, 2])


@pytest.mark.parametrize(
    "kernel, scores",
    [
        ("linear", X @ MEMORY.T / 2),
        ("poly", (X @ MEMORY.T / 2 - 0.5) ** 2),
        ("rbf", -squared_distances(X, MEMORY) / 2),
        ("sigmoid", np.tanh(X @ MEMORY.T / 2 - 0.5)),
    ],
)
def test_kernel_head(kernel, scores):
    network = samn(MEMORY, head="kernel", kernel=kernel, degree=2, coef0=-0.5)
    with torch.no_grad():
        network.log_scale.fill_(np.log(2.0))
        network.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    assert_equal(network(rows()).logits, 2 * centered(scores) + [0.5, -1, 2])


def test_linear_head():
    network = samn(head="linear")
    weight = np.arange(12.0).reshape(3, 4)
    with torch.no_grad():
        network.linear.weight.copy_(torch.from_numpy(weight))
        network.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    assert_equal(network(rows()).logits, X @ weight.T + [0.5, -1, 2])


def test_the_nearest_prototype_speaks_for_its_class():
    # Two prototypes a class: on the first axis at 0 and 10, and at 4 and -4.
    memory = np.zeros((4, 4))
    memory[:, 0] = [0, 10, 4, -4]
    network = samn(memory, n_classes=2, n_prototypes=2)
    scores = -squared_distances(X, memory) / 2
    expected = centered(scores).reshape(3, 2, 2).max(axis=2)
    assert_equal(network(rows()).logits, expected)
    # Of (2, 0, 0, 0): -2, -32, -2, -18, around their mean of -13.5.
    assert_equal(network(rows()).logits[0], [11.5, 11.5])
    output = network(rows())
    assert output.prototype_classes.tolist() == [0, 0, 1, 1]
    assert output.prototypes.tolist() == memory.tolist()


def test_an_unwritten_prototype_has_no_voice():
    # It holds what the first row is, so that it would be the nearest.
    memory = MEMORY[[0, 0, 2]]
    network = samn(memory, filled=[True, False, True])
    logits = network(rows()).logits
    # Centred over the two that are written: scores 0 and -2 of the first row.
    assert_equal(logits[0, [0, 2]], [1, -1])
    assert logits[:, 1].max() < -1e3
    assert logits.isfinite().all()
    assert network(rows()).filled.tolist() == [True, False, True]


def test_set_prior():
    network = samn(MEMORY)
    network.set_prior(torch.tensor([0.7, 0.2, 0.1]))
    # The prior comes as float32.
    np.testing.assert_allclose(
        network.bias.detach().numpy(), np.log([0.7, 0.2, 0.1]), rtol=1e-6
    )
    assert network.bias.requires_grad


def test_stacked_attention_blocks():
    network = samn(MEMORY, n_attention_blocks=2)
    z, weights = X, []
    for block in network.attention:
        z, block_weights = attend(z, MEMORY, block)
        weights.append(block_weights)
    assert_equal(network.embed(rows()), z)
    assert_equal(network.attend(rows()), np.stack(weights, axis=1))
    assert_equal(network(rows()).embedding, z)
    assert_equal(network(rows()).logits, centered(-squared_distances(z, MEMORY) / 2))


def test_attention_uses_the_kernel_of_the_network():
    network = samn(MEMORY, n_attention_blocks=1, kernel="rbf")
    block = network.attention[0]
    query, key = (layer.weight.detach().numpy().T for layer in (block.query, block.key))
    scores = -squared_distances(X @ query, MEMORY @ key) / 2
    assert_equal(network.attend(rows())[:, 0], softmax(scores))


def test_shapes_of_embed_and_attend():
    network = SAMN(
        5, 3, hidden_layer_sizes=(8, 6), n_attention_blocks=2, n_prototypes=4
    )
    x = torch.randn(7, 5)
    assert network.embed(x).shape == (7, 6)
    assert network.attend(x).shape == (7, 2, 12)
    torch.testing.assert_close(network.attend(x).sum(2), torch.ones(7, 2))


def test_attention_sees_the_memory_before_the_batch_and_the_head_that_after_it():
    network = samn(MEMORY, n_attention_blocks=1, memory_gate=0.25)
    z, _ = attend(X, MEMORY, network.attention[0])
    output = network(rows(), Y, torch.ones(3))
    updated = 0.75 * MEMORY + 0.25 * z
    assert_equal(output.embedding, z)
    assert_equal(output.prototypes, updated)
    assert_equal(output.logits, centered(-squared_distances(z, updated) / 2))
    assert_equal(network.memory.entries, updated)


def test_weights_reach_the_memory():
    network = samn(memory_gate=1)
    x = rows([[0, 0, 0, 0], [4, 0, 0, 0], [1, 1, 1, 1]])
    network(x, torch.tensor([0, 0, 1]), torch.tensor([3.0, 1.0, 1.0]))
    assert network.memory.entries.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [0] * 4]


def test_gradient_of_the_logits_flows_through_rows_and_prototypes():
    network, direction = samn(MEMORY, memory_gate=0.25), np.arange(9.0).reshape(3, 3)

    def objective(x):
        updated = 0.75 * MEMORY + 0.25 * x
        return (direction * centered(-squared_distances(x, updated) / 2)).sum()

    expected = np.zeros_like(X)
    for i in np.ndindex(X.shape):
        step = np.zeros_like(X)
        step[i] = 1e-4
        # Central differences are exact for a parabola, but for rounding.
        expected[i] = (objective(X + step) - objective(X - step)) / 2e-4
    x = rows().requires_grad_()
    logits = network(x, Y, torch.ones(3)).logits
    (torch.from_numpy(direction) * logits).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("head", ["distance", "kernel", "linear"])
def test_evaluation_does_not_move_the_memory(head):
    network = samn(MEMORY, n_attention_blocks=1, head=head)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for mode in (True, False):
        network.train(mode)
        network(rows())
        network.embed(rows())
        network.attend(rows())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_row_does_not_depend_on_the_others():
    network = samn(MEMORY, n_attention_blocks=2, hidden_layer_sizes=(4,)).eval()
    together = network(rows()).logits
    for row in range(len(X)):
        assert_equal(network(rows(X[[row]])).logits[0], together[row].detach().numpy())


def test_without_attention_the_distance_head_still_learns_prototypes():
    network = samn(memory_gate=1)
    network(rows(), Y, torch.ones(3))
    assert_equal(network.memory.entries, X)
    assert_equal(network(rows()).embedding, X)


def test_without_attention_and_prototypes_nothing_is_remembered():
    network = samn(head="linear")
    network(rows(), Y, torch.ones(3))
    assert not network.memory.filled.any()
    assert network.memory.entries.tolist() == [[0] * 4] * 3


def test_attention_alone_keeps_the_memory_of_a_linear_head():
    network = samn(n_attention_blocks=1, head="linear", memory_gate=1)
    network(rows(), Y, torch.ones(3))
    # An empty memory adds nothing: what is written are the normalised rows.
    assert_equal(network.memory.entries, layer_norm(X))


def test_gate_of_one_forgets_the_memory():
    network = samn(MEMORY, memory_gate=1)
    output = network(rows(), Y, torch.ones(3))
    assert_equal(output.prototypes, X)


def test_a_state_can_be_loaded_into_a_new_network():
    network = samn(n_attention_blocks=1)
    network(rows(), Y, torch.ones(3))
    copy = SAMN(4, 3, hidden_layer_sizes=(), n_attention_blocks=1).double()
    copy.load_state_dict(network.state_dict())
    assert torch.equal(copy(rows()).logits, network(rows()).logits)


def test_a_linear_head_decides_by_the_last_block():
    torch.manual_seed(0)
    network = SAMN(4, 3, n_attention_blocks=2, head="linear")
    x = torch.randn(6, 4)
    network(x, torch.tensor([0, 1, 2, 0, 1, 2]), torch.ones(6))
    first, last = network.eval().attend(x).unbind(1)
    assert not torch.allclose(first, last)
    assert torch.equal(network.decide(x), last)
