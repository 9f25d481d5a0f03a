"""Stored samples and the networks that read them, against numpy."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from sklearn_samn.modules import (
    MemberLinear,
    NeighborMemory,
    PeriodicEmbedding,
    SampleMemory,
    SampleNetwork,
    kernel_scores,
    read_memory,
    sample_network,
)
from sklearn_samn.modules.embedding import (
    Dropout,
    MemberBatchNorm,
    MemberModules,
    output_width,
)


@pytest.mark.parametrize("kernel", ["exponential", "rbf", "linear", "poly", "sigmoid"])
def test_no_gradient_flows_into_the_memory(kernel):
    queries, keys, values = (
        torch.randn(1, n, 3, requires_grad=True) for n in (2, 4, 4)
    )
    bias, scale = torch.zeros(4, requires_grad=True), torch.ones(1, 1, 1)
    read_memory(queries, keys, values, bias, scale, kernel=kernel).sum().backward()
    assert queries.grad.abs().sum() > 0
    assert keys.grad is values.grad is bias.grad is None


def test_a_network_that_stores_nothing_to_attend_to():
    x, labels, row = torch.randn(6, 4), torch.eye(3).repeat(2, 1), torch.arange(6)
    network = SampleNetwork(4, 3, memory_size=6, head="linear", n_attention_blocks=0)
    output = network(x, labels, torch.ones(6), row)
    assert output.embedding is None
    assert output.logits.shape == (1, 6, 3)


def test_a_vote_of_nobody():
    with pytest.raises(ValueError, match="No rows are stored that could vote"):
        NeighborMemory(3, 4, 0)(torch.randn(2, 4))


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def double(*shape, seed=0, **params):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, **params)


# --- attention


@pytest.mark.parametrize("kernel", ["exponential", "rbf", "linear", "sigmoid", "poly"])
def test_read_memory_by_its_formula(kernel):
    queries, keys, values = double(2, 5, 4), double(2, 7, 4, seed=1), double(2, 7, 3)
    bias, scale = double(7, seed=2), torch.tensor([0.5, 2.0]).double().view(2, 1, 1)
    bias[3] = -torch.inf
    found = read_memory(queries, keys, values, bias, scale, kernel=kernel)
    for member in range(2):
        q, k, v = (a[member].numpy() for a in (queries, keys, values))
        distances = np.linalg.norm(q[:, None] - k, axis=2)
        scores = {
            "exponential": -distances,
            "rbf": -(distances**2) / 2,
            "linear": q @ k.T / 2,
            "sigmoid": np.tanh(q @ k.T / 2 + 1),
            "poly": (q @ k.T / 2 + 1) ** 3,
        }[kernel]
        weights = softmax(scale[member].numpy() * scores + bias.numpy())
        assert_allclose(found[member], weights @ v, rtol=1e-10)
        # The hidden entry is not read.
        assert weights[:, 3].max() == 0


def test_gradient_of_the_exponential_kernel():
    queries, scale = double(2, 5, 4), torch.tensor([0.5, 2.0]).double().view(2, 1, 1)
    keys, values, bias = double(2, 7, 4, seed=1), double(2, 7, 3, seed=2), double(7)
    bias[3] = -torch.inf
    queries.requires_grad_()
    scale.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, s: read_memory(q, keys, values, bias, s), (queries, scale)
    )


@pytest.mark.parametrize("kernel", ["exponential", "rbf"])
def test_an_empty_memory_says_nothing(kernel):
    queries = double(1, 3, 2).requires_grad_()
    bias = torch.full((4,), -torch.inf, dtype=torch.float64)
    scale = torch.ones(1, 1, 1, dtype=torch.float64)
    found = read_memory(
        queries, double(1, 4, 2), double(1, 4, 2), bias, scale, kernel=kernel
    )
    assert (found == 0).all()
    found.sum().backward()
    assert (queries.grad == 0).all()


@pytest.mark.parametrize("kernel", ["exponential", "rbf"])
def test_a_query_does_not_see_its_own_entry(kernel):
    queries, keys, values = double(1, 3, 2), double(1, 4, 2, seed=1), double(1, 4, 2)
    scale, bias = torch.ones(1, 1, 1).double(), torch.zeros(4).double()
    own = torch.tensor([2, -1, 0])
    found = read_memory(queries, keys, values, bias, scale, own, kernel=kernel)
    for query, place in enumerate(own.tolist()):
        others = [i for i in range(4) if i != place]
        alone = read_memory(
            queries[:, [query]],
            keys[:, others],
            values[:, others],
            bias[others],
            scale,
            kernel=kernel,
        )
        assert torch.allclose(found[:, [query]], alone)
    # An own entry that is all there is leaves nothing.
    bias[[0, 1, 3]] = -torch.inf
    found = read_memory(queries, keys, values, bias, scale, own, kernel=kernel)
    assert (found[0, 0] == 0).all()
    assert torch.allclose(found[0, 1:], values[0, 2])


def test_gradient_with_own_entries_hidden():
    queries, scale = double(1, 3, 4).requires_grad_(), torch.ones(1, 1, 1).double()
    keys, values, bias = double(1, 5, 4, seed=1), double(1, 5, 3, seed=2), double(5)
    own = torch.tensor([2, -1, 0])
    scale.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, s: read_memory(q, keys, values, bias, s, own), (queries, scale)
    )


def test_a_query_on_a_key_has_a_finite_gradient():
    keys = double(1, 3, 2)
    queries = keys[:, :1].clone().requires_grad_()
    scale = torch.ones(1, 1, 1, dtype=torch.float64)
    bias = torch.zeros(3, dtype=torch.float64)
    read_memory(queries, keys, double(1, 3, 2, seed=5), bias, scale).sum().backward()
    assert queries.grad.isfinite().all()
    scores = kernel_scores(queries, keys, kernel="exponential")
    assert_allclose(scores[0, 0, 0].item(), 0, atol=1e-5)


# --- memory


def write(memory, rows, value=None, weight=1.0):
    """Store rows whose embedding is their number (or a value), class their parity."""
    row = torch.as_tensor(rows)
    z = (row if value is None else torch.full_like(row, value)).double()
    weights = torch.full((len(row),), weight, dtype=torch.float64)
    memory.write(z.view(1, -1, 1), torch.eye(2).double()[row % 2], weights, row)


def stored(memory):
    """{row: entry} of what the memory holds."""
    entries = memory.entries[0, :, 0].tolist()
    return {r: e for r, e in zip(memory.rows.tolist(), entries, strict=True) if r >= 0}


def test_each_row_has_its_own_place_where_there_is_room():
    memory = SampleMemory(2, 1, size=4).double()
    memory.start(torch.tensor([1, 3, 5, 8]))
    assert stored(memory) == {}
    write(memory, [8, 1])
    assert stored(memory) == {1: 1, 8: 8}
    write(memory, [3, 8], value=7)
    assert stored(memory) == {1: 1, 3: 7, 8: 7}
    assert memory.labels[memory.rows == 3].tolist() == [[0, 1]]


def test_a_new_row_takes_the_place_of_the_oldest():
    memory = SampleMemory(2, 1, size=3).double()
    memory.start(torch.arange(6))
    write(memory, [0, 1])
    write(memory, [2, 3])
    assert stored(memory) == {1: 1, 2: 2, 3: 3}
    # Visited again, a row has one entry, the new one.
    write(memory, [2], value=9)
    assert stored(memory) == {2: 9, 3: 3}
    # A row that is there twice in a batch, too.
    write(memory, [5, 5])
    assert stored(memory) == {5: 5, 2: 9}
    # Of a batch larger than the memory the last rows stay.
    write(memory, [0, 1, 2, 3, 4])
    assert stored(memory) == {2: 2, 3: 3, 4: 4}


@pytest.mark.parametrize("size", [40, 100])
def test_the_own_place_is_known_in_many_epochs(size):
    memory = SampleMemory(2, 1, size=size).double()
    memory.start(torch.arange(100))
    torch.manual_seed(0)
    for _ in range(5):
        # Each row of the batch is there twice.
        for rows in torch.randperm(100).split(7):
            own = memory.own(rows).tolist()
            held = memory.rows.tolist()
            # A row that is stored is stored once, where it says.
            for row, place in zip(rows.tolist(), own, strict=True):
                assert held.count(row) == (place >= 0 and held[place] == row)
            write(memory, rows.repeat(2))
    assert all(row == entry for row, entry in stored(memory).items())
    assert len(stored(memory)) > size / 2


def test_the_bias_is_the_logarithm_of_the_weight():
    memory = SampleMemory(2, 1, size=3).double()
    memory.start(torch.arange(3))
    write(memory, [0], weight=2.0)
    write(memory, [1], weight=0.5)
    assert_allclose(
        memory.bias(), np.log([2.0, 0.5, 0.0], where=[1, 1, 0], out=np.full(3, -np.inf))
    )


def test_rows_of_later_chunks_are_numbered_on():
    memory = SampleMemory(2, 1, size=3).double()
    memory.start(torch.arange(2))
    write(memory, [0, 1])
    memory.start(torch.tensor([2, 3]), first=2)
    write(memory, [2, 3])
    assert stored(memory) == {1: 1, 2: 2, 3: 3}
    assert memory.rows[memory.own(torch.tensor([3]))].tolist() == [3]
    # A new fit begins with nothing.
    memory.start(torch.arange(2))
    assert stored(memory) == {}


# --- several networks at once


@pytest.mark.parametrize("n_members", [1, 3])
def test_members_are_networks_of_their_own(n_members):
    layer, x = MemberLinear(n_members, 4, 2).double(), double(n_members, 5, 4)
    for member in range(n_members):
        expected = x[member] @ layer.weight[member].T + layer.bias[member]
        assert torch.allclose(layer(x)[member], expected)


@pytest.mark.parametrize("n_members", [1, 3])
def test_one_constant_for_all_members(n_members):
    layer = MemberLinear(n_members, 4, 2, bias=False).double()
    x, constant = double(n_members, 5, 4), double(2)
    assert torch.allclose(layer(x, constant), layer(x) + constant)
    assert torch.allclose(layer(x), x @ layer.weight.mT)


def test_batch_norm_of_members():
    ours, x = MemberBatchNorm(2, 3).double(), double(2, 8, 3)
    alone = [nn.BatchNorm1d(3).double() for _ in range(2)]
    for training in (True, False):
        for norm in (ours, *alone):
            norm.train(training)
        expected = torch.stack([n(rows) for n, rows in zip(alone, x, strict=True)])
        assert torch.allclose(ours(x), expected)


def test_copies_of_a_module():
    module = nn.Linear(4, 2).double()
    copies = MemberModules(module, 2)
    x = double(2, 5, 4)
    assert torch.allclose(copies(x), module(x))
    with torch.no_grad():
        copies[0].weight.zero_()
    assert module.weight.abs().min() > 0


class NoColumns(nn.Module):
    def forward(self, x):
        return x[:, :0]


def test_width_of_a_module():
    assert output_width(nn.Linear(4, 7), 4) == 7
    with pytest.raises(ValueError, match=r"feature_extractor .* gives \(2, 2, 2\)"):
        output_width(nn.Unflatten(1, (2, 2)), 4)
    with pytest.raises(ValueError, match="rows of 5 columns, as many as the prepro"):
        output_width(nn.Linear(4, 7), 5)
    with pytest.raises(ValueError, match=r"one column of torch.float32, .* gives 0"):
        output_width(NoColumns(), 4)
    with pytest.raises(ValueError, match="must return a tensor, but gives tuple"):
        output_width(nn.GRU(4, 7), 4)


def test_waves_of_each_number():
    waves = PeriodicEmbedding(2, n_numeric=2, n_frequencies=3).double()
    x = double(2, 5, 4)
    out = waves(x)
    assert out.shape == (2, 5, waves.out_features(4)) == (2, 5, 10)
    assert torch.equal(out[..., :4], x)
    for member in range(2):
        for column in range(2):
            frequency, phase = (
                a[member, 0, column] for a in (waves.frequency, waves.phase)
            )
            expected = (x[member, :, column, None] * frequency + phase).cos()
            found = out[member, :, 4 + 3 * column : 7 + 3 * column]
            assert torch.allclose(found, expected)


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    dropout, x = Dropout(0.25), torch.ones(1000, 101, dtype=torch.float64)
    dropped = dropout(x)
    assert dropped.unique().tolist() == [0, 4 / 3]
    # 101,000 draws: five standard deviations are 0.0068.
    assert abs((dropped == 0).double().mean().item() - 0.25) < 0.0068
    # Neighbouring elements are dropped independently.
    together = ((dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)).double().mean().item()
    assert abs(together - 0.0625) < 0.005
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


# --- the network


def network(n_members=1, n_attention_blocks=0, **params):
    torch.manual_seed(0)
    net = SampleNetwork(
        4,
        3,
        memory_size=6,
        hidden_layer_sizes=(5,),
        n_members=n_members,
        n_attention_blocks=n_attention_blocks,
        embedding_size=2,
        **params,
    ).double()
    # So that the biases and the gate are seen.
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def remember(net, n_rows=6):
    """Rows 0 to 5 in the memory, two of each class."""
    net.memory.start(torch.arange(n_rows))
    z = double(net.n_members, n_rows, net.memory.entries.shape[2], seed=9)
    y = torch.arange(n_rows) % 3
    labels = torch.eye(3).double()[y]
    net.memory.write(z, labels, torch.ones(n_rows).double(), torch.arange(n_rows))
    return z.numpy(), y.numpy()


def silu(x):
    return x / (1 + np.exp(-x))


def hidden_by_hand(net, x, member):
    """Rows after the hidden layer of one member."""
    if net.n_members == 1:
        layer = net.extract[0][0]
        return silu(x @ layer.weight.numpy().T + layer.bias.numpy())
    layer = net.extract[0]
    return silu(x @ layer.weight[member].numpy().T + layer.bias[member].numpy())


def by_hand(net, x, z, y, member, own=None):
    """Logits of one member without attention blocks, by linear layer and by memory."""
    h = hidden_by_hand(net, x, member)
    query = net.queries[0]
    q = h @ query.weight[member].numpy().T + query.bias[member].numpy()
    scale = np.log1p(np.exp(net.temperature[0, member].item()))
    scores = -scale * np.linalg.norm(q[:, None] - z[member], axis=2)
    if own is not None:
        scores[np.arange(len(own)), own] = -np.inf
    mass = softmax(scores) @ np.eye(3)[y]
    gate = np.log1p(np.exp(net.gate[member].item()))
    linear = h @ net.linear.weight[member].numpy().T + net.bias.numpy()
    return linear, gate * np.log(mass + 1e-6)


@pytest.mark.parametrize("n_members", [1, 2])
def test_logits_by_hand(n_members):
    net = network(n_members).eval().requires_grad_(False)
    z, y = remember(net)
    x = double(4, 4, seed=3)
    logits = net(x).logits
    for member in range(n_members):
        linear, memory = by_hand(net, x.numpy(), z, y, member)
        assert_allclose(logits[member], linear + memory, rtol=1e-8)
    probabilities = softmax(logits.numpy()).mean(axis=0)
    assert_allclose(net.probabilities(x), probabilities, rtol=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_the_most_probable_class_with_the_vote_where_it_matters(share, monkeypatch):
    net = network(neighbor_weight=share, n_neighbors=3).eval().requires_grad_(False)
    remember(net)
    rows, labels = double(50, 4, seed=7), torch.eye(3).double()[torch.arange(50) % 3]
    net.pool.fill(rows.unsqueeze(0), labels, torch.ones(50).double(), torch.arange(50))
    x = 2 * double(400, 4, seed=3)
    voted, expected = net.probabilities(x).max(1)
    if share:
        # Votes that change the class are among them.
        assert (expected != net(x).logits[0].argmax(1)).any()
    asked = []
    vote = net.pool.forward
    monkeypatch.setattr(net.pool, "forward", lambda x, k: asked.append(x) or vote(x, k))
    classes, top = net.most_probable(x)
    assert torch.equal(classes, expected)
    # Where the vote is not taken, the network's own probability.
    alone = top == net(x).logits[0].softmax(1).amax(1)
    assert torch.allclose(top[~alone], voted[~alone])
    n_asked = sum(map(len, asked))
    assert n_asked == 0 if share == 0 else 0 < n_asked
    assert (~alone).sum() == n_asked
    if share == 0.2:
        assert n_asked < 300


def test_predictions_in_parts_are_those_at_once(monkeypatch):
    net = network(neighbor_weight=0.4, n_neighbors=3).eval().requires_grad_(False)
    remember(net)
    rows, labels = double(50, 4, seed=7), torch.eye(3).double()[torch.arange(50) % 3]
    net.pool.fill(rows.unsqueeze(0), labels, torch.ones(50).double(), torch.arange(50))
    x = 2 * double(11, 4, seed=3)
    expected, classes = net.probabilities(x), net.most_probable(x)[0]
    monkeypatch.setattr(sample_network, "PREDICT_SCORES", 1)
    monkeypatch.setattr(sample_network, "PREDICT_BATCH", 2)
    sizes = []
    net.queries[0].register_forward_pre_hook(
        lambda layer, inputs: sizes.append(inputs[0].shape[1])
    )
    torch.testing.assert_close(net.probabilities(x), expected)
    assert sizes == [2, 2, 2, 2, 2, 1]
    assert torch.equal(net.most_probable(x)[0], classes)


def entries_of(stored, rows):
    """What is stored of some of the rows: equal rows as one entry."""
    numbers, place = stored["row"][rows].unique(return_inverse=True)
    mass = torch.zeros(len(numbers), 3).double()
    mass.index_add_(0, place, (stored["labels"] * stored["weight"].unsqueeze(1))[rows])
    first = [int((stored["row"] == number).nonzero()[0]) for number in numbers]
    weight = mass.sum(1)
    return stored["x"][first], mass / weight.unsqueeze(1), weight, numbers


def pooled(seed=0, **params):
    """A network with rows in memory and pool, and the arguments for tuning its vote."""
    net = network(neighbor_weight=0.3, n_neighbors=3, **params).eval()
    net.requires_grad_(False)
    # Fourteen rows, of which three are equal.
    row = torch.tensor([*range(12), 4, 4])
    weight = torch.arange(1, 15).double()
    # Which power and which share are best depends on the labels.
    y = np.random.default_rng(seed).permutation(14) % 3
    stored = {
        "x": double(12, 4, seed=7)[row],
        "labels": torch.eye(3).double()[torch.from_numpy(y)],
        "weight": weight,
        "row": row,
        "share": weight / torch.zeros(12).double().index_add_(0, row, weight)[row],
    }
    x, *tables = entries_of(stored, torch.arange(14))
    net.memory.fill(net.embed(x), *tables)
    net.pool.fill(x.unsqueeze(0), *tables)
    return net, stored


@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize("stored_rows", [False, True])
def test_sensitivity_by_differences(n_members, stored_rows):
    net, stored = pooled(n_members=n_members, n_attention_blocks=1)
    labels, own = stored["labels"], torch.full((14,), -1)
    x = double(14, 4, seed=3)
    if stored_rows:
        # Attention has a kink there, but that they do not see themselves.
        x, own = stored["x"], net.memory.find(stored["row"])

    def losses(x):
        log_probs = net._score(x, own).logits.mean(0).log_softmax(1)
        return -(labels * log_probs).sum(1)

    steps = 1e-6 * torch.eye(4).double()
    slopes = torch.stack([(losses(x + h) - losses(x - h)) / 2e-6 for h in steps])
    expected = slopes.square().mean(1).sqrt()
    torch.testing.assert_close(
        net.sensitivity(x, labels, own), expected / expected.max(), rtol=1e-6, atol=0
    )


def votes_of_others(net, stored, scale):
    """The votes on each row, by pools that lack it."""
    prior = stored["weight"] @ stored["labels"] / stored["weight"].sum()
    votes = []
    for place in range(14):
        others = torch.arange(14) != place
        x, labels, weight, numbers = entries_of(stored, others)
        alone = NeighborMemory(3, 4, 0).double()
        alone.fill((x * scale).unsqueeze(0), labels, weight, numbers)
        vote = alone((stored["x"][place] * scale).unsqueeze(0), 3)[0]
        # The prior is that of all rows.
        votes.append(vote + 0.05 * (prior - weight @ labels / weight.sum()))
    return torch.stack(votes)


def cross_entropy(probabilities, stored):
    losses = -(stored["labels"] * probabilities.log()).sum(1)
    return (stored["weight"] * losses).sum().item()


@pytest.mark.parametrize("seed", range(4))
def test_columns_count_as_serves_the_votes_of_others(seed):
    net, stored = pooled(seed)
    own = net.memory.find(stored["row"])
    sensitivity = net.sensitivity(stored["x"], stored["labels"], own)
    votes = {p: votes_of_others(net, stored, sensitivity**p) for p in (0, 1, 2)}
    best = min(votes, key=lambda power: cross_entropy(votes[power], stored))
    torch.testing.assert_close(net.scale_columns(**stored), votes[best])
    torch.testing.assert_close(net.pool.scale, sensitivity**best)


def test_a_network_that_depends_on_nothing_leaves_the_columns_alike():
    net, stored = pooled()
    for parameter in net.extract.parameters():
        parameter.zero_()
    votes = net.scale_columns(**stored)
    assert net.pool.scale.tolist() == [1, 1, 1, 1]
    assert votes.isfinite().all()


# Those of the four above whose other rows choose powers 1 and 2.
@pytest.mark.parametrize("seed", [0, 3])
def test_rows_of_a_class_without_a_vote_do_not_choose_the_scale(seed):
    net, stored = pooled(seed)
    kept = stored["labels"][:, 2] == 0
    x, *tables = entries_of(stored, kept.nonzero().squeeze(1))
    net.pool.fill(x.unsqueeze(0), *tables)
    net.sensitivity = lambda *_: torch.tensor([1, 0.1, 0.2, 0.4]).double()
    net.scale_columns(**{name: values[kept] for name, values in stored.items()})
    by_the_others = net.pool.scale
    net.scale_columns(**stored)
    assert torch.equal(net.pool.scale, by_the_others)
    assert (by_the_others < 1).any()


@pytest.mark.parametrize("seed", range(4))
def test_the_share_that_serves_the_rows_without_their_own(seed):
    net, stored = pooled(seed)
    votes = votes_of_others(net, stored, torch.ones(4))
    probabilities = []
    for place, row in enumerate(stored["row"]):
        alone = pooled(seed)[0]
        if row != 4:
            kept = torch.arange(12) != row
            tables = (
                alone.memory.labels,
                alone.memory.log_weight.exp(),
                torch.arange(12),
            )
            entries = alone.memory.entries[:, kept]
            alone.memory.fill(entries, *(table[kept] for table in tables))
        logits = alone(stored["x"][place : place + 1]).logits
        probabilities.append(logits[0, 0].softmax(0))
    probabilities = torch.stack(probabilities)

    def loss(share):
        mixed = probabilities ** (1 - share) * (votes + 1e-6) ** share
        return cross_entropy(mixed / mixed.sum(1, keepdim=True), stored)

    best = min(np.arange(9) / 20, key=loss)
    net.choose_share(votes, **stored)
    assert net.neighbor_weight == pytest.approx(best + 0.1)


def test_a_row_that_the_network_thinks_impossible_wants_the_vote():
    net, stored = pooled()
    net.bias[0] = -1e4
    assert (net.probabilities(stored["x"])[:, 0] == 0).all()
    net.choose_share(votes_of_others(net, stored, torch.ones(4)), **stored)
    assert net.neighbor_weight == pytest.approx(max(sample_network.SHARES) + 0.1)


def test_what_is_stored_by_its_number():
    net = network(neighbor_weight=0.5, n_neighbors=3).eval().requires_grad_(False)
    z, y = remember(net)
    # Some of the rows of the pool are in the memory as well.
    inputs, numbers = double(4, 4, seed=7), torch.tensor([9, 4, 2, 7])
    labels = torch.eye(3).double()[[0, 1, 2, 1]]
    net.pool.fill(inputs.unsqueeze(0), labels, torch.ones(4).double(), numbers)
    stored = net.stored()
    assert stored.tolist() == [0, 1, 2, 3, 4, 5, 7, 9]
    assert net.labels_of(stored).argmax(1).tolist() == [*y.tolist(), 1, 0]
    x = double(2, 4, seed=3)
    attention, (votes, places) = net.attend(x), net.pool.voters(x, 3)
    expected = np.zeros((2, 10))
    expected[:, :6] = 0.5 * attention.numpy()
    for row in range(2):
        expected[row, numbers[places[row]].numpy()] += 0.5 * votes[row].numpy()
    assert_allclose(net.decide(x), expected[:, stored.numpy()])
    distances = net.distances(x, torch.tensor([[9, 0], [3, 7]]))
    q, of_inputs = net.embed(x)[0], net.embed(inputs)[0].numpy()
    ends = [[of_inputs[0], z[0, 0]], [z[0, 3], of_inputs[3]]]
    expected = [[np.linalg.norm(q[i].numpy() - e) for e in ends[i]] for i in range(2)]
    assert_allclose(distances, expected, rtol=1e-6)


@pytest.mark.parametrize("head", ["linear", "kernel"])
def test_either_head_alone(head):
    net = network(head=head).eval().requires_grad_(False)
    x = double(4, 4, seed=3)
    if head == "linear":
        assert not net.queries
        assert net.memory.entries.numel() == 0
        h = hidden_by_hand(net, x.numpy(), 0)
        expected = h @ net.linear.weight[0].numpy().T + net.bias.numpy()
    else:
        z, y = remember(net)
        expected = by_hand(net, x.numpy(), z, y, 0)[1] + net.bias.numpy()
    assert_allclose(net(x).logits[0], expected, rtol=1e-8)


def test_in_training_each_row_is_hidden_from_itself_then_stored():
    net = network().requires_grad_(False)
    z, y = remember(net)
    x, row = double(2, 4, seed=3), torch.tensor([1, 4])
    labels = torch.tensor([[1, 0, 0], [0.25, 0.75, 0]]).double()
    output = net(x, labels, torch.tensor([1.0, 3.0]).double(), row)
    linear, memory = by_hand(net, x.numpy(), z, y, 0, own=[1, 4])
    assert_allclose(output.logits[0], linear + memory, rtol=1e-8)
    assert torch.equal(net.memory.entries[:, row], output.embedding)
    assert torch.equal(net.memory.labels[row], labels)
    assert net.memory.labels.argmax(1).tolist() == [0, 0, 2, 0, 1, 2]
    assert_allclose(net.memory.bias()[row], np.log([1, 3]))


def test_a_block_adds_what_it_reads():
    net = network(n_attention_blocks=1, head="linear").eval().requires_grad_(False)
    z, y = remember(net)
    x = double(3, 4, seed=3).numpy()
    query, value = net.queries[0], net.values[0]
    h = hidden_by_hand(net, x, 0)
    q = h @ query.weight[0].numpy().T + query.bias[0].numpy()
    scale = np.log1p(np.exp(net.temperature[0, 0].item()))
    weights = softmax(-scale * np.linalg.norm(q[:, None] - z[0], axis=2))
    found = np.column_stack([weights @ np.eye(3)[y], weights @ z[0] - q])
    h = h + found @ value.weight[0].numpy().T + value.bias[0].numpy()
    expected = h @ net.linear.weight[0].numpy().T + net.bias.numpy()
    assert_allclose(net(torch.from_numpy(x)).logits[0], expected, rtol=1e-8)
    assert_allclose(net.attend(torch.from_numpy(x)), weights, rtol=1e-6)
    places = torch.tensor([[0, 3], [2, 1], [4, 4]])
    expected = np.linalg.norm(q[:, None] - z[0][places], axis=2)
    assert_allclose(net.distances(torch.from_numpy(x), places), expected, rtol=1e-6)


def test_each_block_has_queries_of_its_own():
    net = network(n_attention_blocks=3)
    assert net.memory.entries.shape == (1, 6, 6)
    remember(net)
    assert net.embed(double(2, 4)).shape == (1, 2, 6)


def test_a_module_of_the_users_extracts_the_features():
    module = nn.Sequential(nn.Linear(4, 7), nn.ReLU()).double()
    net = network(2, feature_extractor=module)
    assert net.linear.weight.shape == (2, 3, 7)
    remember(net)
    assert net(double(5, 4)).logits.shape == (2, 5, 3)


@pytest.mark.parametrize("kernel", ["exponential", "rbf"])
def test_rows_that_are_far_from_all_still_see_them(kernel):
    queries = torch.tensor([[[1e6], [2.0]]])
    keys, values, bias = (
        torch.tensor([[[0.0], [1.0]]]),
        torch.eye(2)[None],
        torch.zeros(2),
    )
    found = read_memory(queries, keys, values, bias, torch.ones(1, 1, 1), kernel=kernel)
    torch.testing.assert_close(found.sum(2), torch.ones(1, 2))


def filled(**params):
    """A network whose memory and pool hold 40 rows, the rows and their labels."""
    torch.manual_seed(0)
    network = SampleNetwork(
        3, 2, memory_size=40, hidden_layer_sizes=(8,), embedding_size=4, **params
    ).eval()
    x = torch.randn(40, 3)
    stored = torch.eye(2)[(x[:, 0] > 0).long()], torch.ones(40), torch.arange(40)
    with torch.no_grad():
        # Once for each read: what is stored for it depends on the reads before.
        for _ in network.queries:
            network.memory.fill(network.embed(x), *stored)
    network.pool.fill(x[None], *stored)
    return network, x, stored[0]


def test_attention_is_that_of_the_last_read():
    network, x, _ = filled(n_attention_blocks=2)
    with torch.no_grad():
        network.temperature[-1] += 3
        z = network.embed(x)[0, :, -4:]
        keys = network.memory.entries[0, :, -4:]
        scale = nn.functional.softplus(network.temperature[-1, 0])
        expected = (-scale * torch.cdist(z, keys)).softmax(1)
        torch.testing.assert_close(network.attend(x), expected, rtol=1e-3, atol=1e-4)


def test_sensitivity_of_a_network_with_tiny_gradients():
    network, x, labels = filled()
    with torch.no_grad():
        network.linear.weight *= 1e-25
        network.gate.fill_(-80.0)
    sensitivity = network.sensitivity(x, labels, torch.full((40,), -1))
    assert sensitivity.isfinite().all()
    assert sensitivity.max() == 1


def test_the_lowest_temperature(monkeypatch):
    network, x, labels = filled(neighbor_weight=0.1)
    monkeypatch.setattr(network.pool, "best_temperature", lambda *args: 0.25)
    network.choose_temperature(
        x, labels, torch.ones(40), torch.arange(40), torch.ones(40)
    )
    assert network.label_temperature == 0.5
