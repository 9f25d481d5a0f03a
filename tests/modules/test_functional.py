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
