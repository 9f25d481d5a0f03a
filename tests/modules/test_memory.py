"""The gated update of the prototypes, by hand."""

import math

import numpy as np
import pytest
import torch

from sklearn_samn.modules import NeighborMemory, PrototypeMemory, SampleMemory
from sklearn_samn.modules.memory import most_likely, smallest


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


def memory_of(entries, *, n_classes=2, filled=None, **params):
    """A memory that holds the given entries."""
    entries = double(entries)
    n_prototypes = len(entries) // n_classes
    memory = PrototypeMemory(
        n_classes, entries.shape[1], n_prototypes=n_prototypes, **params
    ).double()
    memory.entries.copy_(entries)
    memory.filled.copy_(torch.tensor(filled or [True] * len(entries)))
    return memory


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def test_first_write_takes_the_mean_and_absent_classes_stay_unwritten():
    memory = PrototypeMemory(3, 2, gate=0.25).double()
    assert not memory.filled.any()
    updated = memory(
        double([[1, 2], [3, 6], [5, 5]]), torch.tensor([0, 0, 2]), torch.ones(3)
    )
    assert updated.tolist() == [[2, 4], [0, 0], [5, 5]]
    assert memory.filled.tolist() == [True, False, True]
    assert torch.equal(memory.entries, updated)


def test_fixed_gate():
    memory = memory_of([[4, 0], [10, -10]], gate=0.25)
    z, y = double([[0, 8], [8, 0], [2, 2]]), torch.tensor([0, 0, 1])
    updated = memory(z, y, torch.ones(3))
    # 0.75 * (4, 0) + 0.25 * (4, 4) and 0.75 * (10, -10) + 0.25 * (2, 2)
    assert updated.tolist() == [[4, 1], [8, -7]]
    assert torch.equal(memory.entries, updated)


def test_an_absent_class_keeps_its_entry_and_gets_no_gradient():
    memory = memory_of([[4, 0], [10, -10]], gate=0.25)
    z = double([[0, 8]]).requires_grad_()
    updated = memory(z, torch.tensor([0]), torch.ones(1))
    assert updated[1].tolist() == [10, -10]
    assert memory.entries[1].tolist() == [10, -10]
    assert memory.filled.tolist() == [True, True]
    updated[1].sum().backward()
    assert z.grad.tolist() == [[0, 0]]


def test_weights_make_a_weighted_mean():
    memory = memory_of([[0], [0]], gate=0.5)
    z, y = double([[1], [5], [8]]), torch.tensor([0, 0, 1])
    updated = memory(z, y, double([3, 1, 0]))
    # Mean (3 * 1 + 1 * 5) / 4 = 2; a class whose rows weigh nothing is absent.
    assert updated.tolist() == [[1], [0]]


def test_rows_of_weight_zero_do_not_fill_an_entry():
    memory = PrototypeMemory(2, 1).double()
    memory(double([[1], [7]]), torch.tensor([0, 1]), double([1, 0]))
    assert memory.filled.tolist() == [True, False]
    assert memory.entries.tolist() == [[1], [0]]


def test_learned_gate_starts_as_a_slow_average():
    memory = memory_of([[4], [-3]])
    updated = memory(double([[8], [1]]), torch.tensor([0, 1]), torch.ones(2))
    g = sigmoid(-2)
    expected = [[4 + g * (8 - 4)], [-3 + g * (1 + 3)]]
    np.testing.assert_allclose(updated.detach().numpy(), expected, rtol=1e-14)


def test_learned_gate_reads_memory_and_batch():
    entries = np.array([[1.0, -2.0], [0.5, 3.0]])
    means = np.array([[2.0, 1.0], [-1.0, 0.0]])
    weight = np.array([[0.3, -0.2, 0.5, 0.1], [-0.4, 0.6, 0.2, -0.7]])
    bias = np.array([0.1, -0.3])
    memory = memory_of(entries.tolist())
    with torch.no_grad():
        memory.gate.weight.copy_(torch.from_numpy(weight))
        memory.gate.bias.copy_(torch.from_numpy(bias))
    updated = memory(torch.from_numpy(means), torch.tensor([0, 1]), torch.ones(2))
    g = sigmoid(np.hstack([entries, means]) @ weight.T + bias)
    expected = (1 - g) * entries + g * means
    np.testing.assert_allclose(updated.detach().numpy(), expected, rtol=1e-13)


def test_gate_of_one_is_the_batch_alone():
    memory = memory_of([[4], [-3]], gate=1)
    updated = memory(double([[8], [1], [3]]), torch.tensor([0, 1, 1]), torch.ones(3))
    assert updated.tolist() == [[8], [2]]


def test_gradient_flows_through_the_batch_mean():
    memory = memory_of([[4], [-3]], gate=0.25)
    z = double([[8], [1], [3]]).requires_grad_()
    updated = memory(z, torch.tensor([0, 1, 1]), double([1, 1, 3]))
    # d(sum of updated)/dz: the gate times the row's share of its class.
    updated.sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), [[0.25], [0.0625], [0.1875]])


def test_gradient_of_a_first_write_is_that_of_the_mean():
    memory = PrototypeMemory(2, 1, gate=0.25).double()
    z = double([[8], [1], [3]]).requires_grad_()
    memory(z, torch.tensor([0, 1, 1]), torch.ones(3)).sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), [[1], [0.5], [0.5]])


def test_gradient_flows_through_the_learned_gate():
    m, p, w_m, w_p, b = 1.5, -0.5, 0.3, -0.8, 0.2
    memory = memory_of([[m], [0]])
    with torch.no_grad():
        memory.gate.weight.copy_(double([[w_m, w_p]]))
        memory.gate.bias.fill_(b)
    z = double([[p]]).requires_grad_()
    memory(z, torch.tensor([0]), torch.ones(1))[0].sum().backward()
    # M_t = m + g (p - m) with g = sigmoid(w_m m + w_p p + b).
    g = 1 / (1 + math.exp(-(w_m * m + w_p * p + b)))
    slope = g * (1 - g)
    assert z.grad.item() == pytest.approx(g + (p - m) * slope * w_p, rel=1e-12)
    np.testing.assert_allclose(
        memory.gate.weight.grad.numpy(),
        [[(p - m) * slope * m, (p - m) * slope * p]],
        rtol=1e-12,
    )
    assert memory.gate.bias.grad.item() == pytest.approx((p - m) * slope, rel=1e-12)


def test_the_past_is_detached():
    memory = PrototypeMemory(1, 1, gate=0.5).double()
    before, y = double([[2]]).requires_grad_(), torch.tensor([0])
    memory(before, y, torch.ones(1))
    assert not memory.entries.requires_grad
    now = double([[6]]).requires_grad_()
    memory(now, y, torch.ones(1)).sum().backward()
    assert before.grad is None
    assert now.grad.item() == 0.5


def test_several_prototypes_take_the_rows_nearest_to_them():
    # Class 0 has prototypes 0 and 10, class 1 has 5 and 20.
    memory = memory_of([[0], [10], [5], [20]], gate=1)
    assert memory.classes.tolist() == [0, 0, 1, 1]
    z = double([[1], [3], [6], [14], [1], [9]])
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    updated = memory(z, y, torch.ones(6))
    # 1 and 3 go to 0; 6 and 14 to 10, though 6 is nearer to the 5 of class 1; 1 and 9
    # to 5, though both are nearer to a prototype of class 0. Nobody goes to 20.
    assert updated.tolist() == [[2], [10], [5], [20]]
    # The next batch is compared with what this one left: 2 and 10, 5 and 20.
    z = double([[5], [7], [15], [18]])
    updated = memory(z, torch.tensor([0, 0, 1, 1]), torch.ones(4))
    assert updated.tolist() == [[5], [7], [5], [16.5]]


def test_unwritten_prototypes_take_the_rows_in_turn():
    memory = PrototypeMemory(1, 1, n_prototypes=2, gate=0.5).double()
    z, y = double([[1], [2], [3], [6]]), torch.zeros(4, dtype=torch.long)
    assert memory(z, y, torch.ones(4)).tolist() == [[2], [4]]


def test_unwritten_prototypes_come_before_written_ones():
    memory = memory_of([[1], [0]], n_classes=1, filled=[True, False], gate=0.5)
    updated = memory(
        double([[1], [1.5]]), torch.zeros(2, dtype=torch.long), torch.ones(2)
    )
    assert updated.tolist() == [[1], [1.25]]


def test_assignment_carries_no_gradient_of_its_own():
    memory = memory_of([[0], [10]], n_classes=1, gate=0.5)
    z = double([[1], [8], [12]]).requires_grad_()
    memory(z, torch.zeros(3, dtype=torch.long), torch.ones(3)).sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), [[0.5], [0.25], [0.25]])


def test_state_holds_entries_and_what_is_filled():
    memory = memory_of([[4], [-3]], filled=[True, False], gate=0.25)
    copy = PrototypeMemory(2, 1, gate=0.25).double()
    copy.load_state_dict(memory.state_dict())
    assert set(memory.state_dict()) == {"entries", "filled"}
    assert copy.entries.tolist() == [[4], [-3]]
    assert copy.filled.tolist() == [True, False]


def test_unwritten_prototypes_take_the_rows_of_their_class_in_turn():
    memory = PrototypeMemory(2, 1, n_prototypes=2, gate=0.5)
    z = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    entries = memory(z, torch.tensor([0, 1, 0, 1]), torch.ones(4))
    assert memory.filled.all()
    assert entries.ravel().tolist() == [1, 3, 2, 4]


# --- the vote of the nearest stored rows


def stored(inputs, labels, weight=None, size=None):
    """A memory of rows of one class each; places beyond them are empty."""
    size = size or len(inputs)
    memory = NeighborMemory(2, len(inputs[0]), size).double()
    memory.start(torch.arange(len(inputs)))
    memory.write(
        double([inputs]),
        torch.eye(2).double()[torch.tensor(labels)],
        torch.ones(len(inputs)).double() if weight is None else double(weight),
        torch.arange(len(inputs)),
    )
    return memory


def test_the_vote_of_three_by_hand():
    memory = stored([[0, 0], [3, 4], [0, 1], [100, 0]], [0, 1, 1, 0], [1, 2, 3, 1])
    vote = memory(double([[0, 0]]), 3)[0]
    # Distances 0, 1 and 5 of the classes 0, 1 and 1, weights 1, 3 and 2.
    scale = 0.15 * 2
    last = math.exp(-5 / scale)
    nearness = [1 - last + 1e-6, math.exp(-1 / scale) - last + 1e-6, 1e-6]
    of_one = 3 * nearness[1] + 2 * nearness[2]
    share = of_one / (of_one + nearness[0])
    assert vote[1].item() == pytest.approx(0.95 * share + 0.05 * 5 / 7, rel=1e-7)
    assert vote.sum().item() == pytest.approx(1)


def test_columns_count_by_their_scale():
    inputs = [[0, 0], [3, 4], [0, 1], [100, 0]]
    memory = stored(inputs, [0, 1, 1, 0])
    memory.scale = double([2, 0.5])
    stretched = stored([[2 * a, b / 2] for a, b in inputs], [0, 1, 1, 0])
    x = double([[1, 1], [40, 3]])
    expected = stretched(x * memory.scale, 3)
    torch.testing.assert_close(memory(x, 3), expected)
    assert not torch.allclose(stored(inputs, [0, 1, 1, 0])(x, 3), expected)
    # Rows that come in place of these have no scale yet.
    memory.fill(double([[[1, 2]]]), torch.eye(2)[:1], torch.ones(1), torch.arange(1))
    assert memory.scale.tolist() == [1, 1]


def test_a_row_has_no_vote_on_itself():
    memory = stored([[0.0], [1.0], [3.0], [7.0]], [0, 1, 0, 1])
    x, own = double([[0.0], [1.0], [7.0]]), torch.tensor([0, -1, 3])
    places = memory.voters(x, 2, own)[1].sort(dim=1).values
    assert places.tolist() == [[1, 2], [0, 1], [1, 2]]
    # All but the own, if they are fewer.
    assert memory.voters(x[:1], 9, own[:1])[1].sort().values.tolist() == [[1, 2, 3]]


def test_rows_far_lighter_than_others_vote_among_themselves():
    """Their share of the heaviest row of all is no number of 32 bits."""
    inputs, labels = [[0.0], [1.0], [1.0], [1.0]], [0, 0, 1, 1]
    memory = stored(inputs, labels, [1, 1e-60, 3e-60, 2e-60]).float()
    votes, _ = memory.voters(torch.ones(1, 1), 3)
    assert votes.sort().values[0].tolist() == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6], rel=1e-5
    )


def test_a_weight_below_all_numbers_is_a_number():
    memory = NeighborMemory(2, 1, 2)
    memory.start(torch.arange(2))
    weight = torch.tensor([1.0, 0.0])
    memory.write(torch.zeros(1, 2, 1), torch.eye(2), weight, torch.arange(2))
    assert memory.log_weight.isfinite().all()
    memory.fill(torch.zeros(1, 2, 1), torch.eye(2), weight, torch.arange(2))
    assert memory.log_weight.isfinite().all()


def test_empty_places_have_no_vote():
    inputs, labels = [[0.0], [1.0], [5.0]], [0, 1, 1]
    x = double([[0.2], [4.0]])
    votes = [stored(inputs, labels, size=size)(x, 20) for size in (3, 7)]
    assert torch.equal(*votes)


def test_the_nearest_beside_a_column_of_years():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal([0, 2020, 0], size=(2000, 3))).float()
    memory = NeighborMemory(2, 3, 0)
    labels = torch.eye(2)[torch.arange(2000) % 2]
    memory.fill(rows.unsqueeze(0), labels, torch.ones(2000), torch.arange(2000))
    x = rows[:100] + torch.from_numpy(rng.normal(size=(100, 3))).float()
    distances = torch.cdist(x.double(), rows.double())
    found = distances.gather(1, memory.voters(x, 20)[1]).sort().values
    # Numbers of 32 bits are 0.0001 apart at 2020.
    expected = distances.sort().values[:, :20]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_rows_too_far_out_for_a_distance():
    memory = stored([[0.0, 0.0]], [0]).float()
    x = torch.tensor([[1.0, 1e18], [1e20, 0.0]])
    assert memory.beyond(x).tolist() == [False, True]


def test_equally_near_rows_have_equal_votes():
    memory = stored([[0, 1], [1, 0], [0, -1]], [0, 1, 1])
    vote = memory(double([[0, 0]]), 20)[0]
    assert vote[1].item() == pytest.approx(2 / 3)


def test_a_vote_depends_on_no_other_row():
    rng = np.random.default_rng(0)
    memory = stored(rng.normal(size=(2000, 3)).tolist(), [0, 1] * 1000)
    x = double(rng.normal(size=(300, 3)).tolist())
    together = memory(x)
    apart = torch.cat([memory(row.unsqueeze(0)) for row in x])
    assert torch.allclose(together, apart, atol=1e-9)


def test_no_vote_is_out_of_its_bounds():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=50).tolist()
    memory = stored(rng.normal(size=(50, 1)).tolist(), labels, [1, 9] * 25)
    low, high = memory.bounds()
    # Of one neighbour the vote is all there can be: one of the bounds.
    votes = memory(double(rng.normal(size=(90, 1)).tolist()), 1)
    assert torch.allclose(votes.amin(0), low)
    assert torch.allclose(votes.amax(0), high)
    assert torch.allclose(low + high.flip(0), torch.ones(2).double())


@pytest.mark.parametrize("n_values", [5, 160, 161, 5000])
def test_the_smallest(n_values):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(40, n_values)))
    found = values.gather(1, smallest(values, 5))
    assert torch.equal(found.sort().values, values.sort().values[:, :5])


def test_the_likeliest_is_none_that_is_not_a_number():
    log_probs = torch.tensor([[[-1.0, -2.0]], [[-0.5, -3.0]], [[torch.nan, 0]]])
    for labels, best in (([1.0, 0.0], 1), ([0.5, 0.5], 0)):
        found = most_likely(log_probs, torch.tensor([labels]), torch.ones(1))
        assert found == best


def voters(weight=(1.0, 1.0, 1.0), n_features=1):
    memory = NeighborMemory(2, n_features, 0)
    rows, labels = torch.zeros(1, 3, n_features), torch.eye(2)[[0, 1, 0]]
    memory.fill(rows, labels, torch.tensor(weight), torch.arange(3))
    return memory


def test_far_out_is_said_of_scaled_columns():
    memory = voters(n_features=2)
    memory.scale = torch.tensor([1.0, 0.0])
    assert memory.beyond(torch.tensor([[0, 1e30], [1e30, 0]])).tolist() == [False, True]


def test_weights_whose_sum_is_beyond_the_largest_number():
    memory = voters([1e38, 2e38, 3e38])
    assert memory.weight().max() == 1
    torch.testing.assert_close(memory._prior(), torch.tensor([2 / 3, 1 / 3]))


def test_a_filled_memory_is_written_from_its_first_place_on():
    memory, labels, one = SampleMemory(2, 1, 3), torch.eye(2), torch.ones(1)
    memory.start(torch.arange(4))
    for row in torch.arange(4).split(1):
        memory.write(torch.zeros(1, 1, 1), labels[row % 2], one, row)
    rows = torch.zeros(1, 3, 1)
    memory.fill(rows, labels[[0, 1, 0]], torch.ones(3), torch.arange(3))
    memory.start(torch.tensor([4]), first=4)
    memory.write(torch.ones(1, 1, 1), labels[[0]], one, torch.tensor([4]))
    assert memory.rows.tolist() == [4, 1, 2]
