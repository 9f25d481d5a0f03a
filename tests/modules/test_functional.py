"""They are what torch computes, derivatives too."""

import pytest
import torch
from torch.testing import assert_close

from sklearn_samn.modules import functional

# Through zero, and far out, where exp has no number left in float32.
NUMBERS = torch.cat([torch.linspace(-5, 5, 101), torch.tensor([-200.0, 200.0])])
OURS = {
    "tanh": (functional.tanh, torch.tanh),
    "mish": (functional.mish, torch.nn.functional.mish),
}


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)]
)
def test_functions_of_a_number(name, dtype, tolerance):
    ours, theirs = OURS[name]
    x = NUMBERS.to(dtype)
    assert_close(ours(x), theirs(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OURS)
def test_their_derivatives(name):
    ours, theirs = OURS[name]
    x = NUMBERS.double().requires_grad_()
    found, expected = (torch.autograd.grad(f(x).sum(), x)[0] for f in (ours, theirs))
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 2), (4, 40), (3, 1)])
def test_softmax(shape):
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    along = torch.randn(shape, dtype=torch.float64)
    results = [functional.softmax(scores), torch.softmax(scores, dim=-1)]
    assert_close(*results, rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(r, scores, along)[0] for r in results]
    assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_softmax_of_scores_without_a_number():
    """A class that is ruled out has no share."""
    scores = torch.tensor([[0.0, -torch.inf, 0.0], [1e38, 0.0, -1e38]])
    expected = torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    assert_close(functional.softmax(scores), expected, rtol=0, atol=0)
