"""The divergence against torch.distributions."""

import pytest
import torch
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as oracle

from cryomorph.objectives.kl import kl_divergence


@pytest.mark.parametrize("zdim", [1, 3, 8])
def test_it_is_that_of_torch_distributions(zdim):
    generator = torch.Generator().manual_seed(zdim)
    mean = 3 * torch.randn(20, zdim, generator=generator)
    log_variance = 2 * torch.randn(20, zdim, generator=generator) - 1
    prior_std = torch.rand(zdim, generator=generator) * 3 + 0.1
    found = kl_divergence(mean, log_variance, prior_std)
    posterior, prior = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(zdim), prior_std)
    torch.testing.assert_close(found, oracle(posterior, prior.expand((20, zdim))), rtol=1e-4, atol=1e-5)
    joint = oracle(Independent(posterior, 1), Independent(prior.expand((20, zdim)), 1))
    torch.testing.assert_close(found.sum(1), joint, rtol=1e-4, atol=1e-4)


def test_the_prior_itself_diverges_by_nothing_and_everything_else_by_more():
    prior_std = torch.tensor([0.5, 1.0, 4.0])
    same = kl_divergence(torch.zeros(1, 3), 2 * prior_std.log()[None], prior_std)
    torch.testing.assert_close(same, torch.zeros(1, 3), rtol=0, atol=1e-6)
    generator = torch.Generator().manual_seed(0)
    other = kl_divergence(torch.randn(50, 3, generator=generator), torch.randn(50, 3, generator=generator), prior_std)
    assert bool((other > 0).all())


def test_its_gradient_is_the_papers():
    """`mean / prior^2`, and `(variance / prior^2 - 1) / 2` of the log-variance."""
    mean = torch.tensor([[1.5, -2.0]], requires_grad=True)
    log_variance = torch.tensor([[0.3, -1.0]], requires_grad=True)
    prior_std = torch.tensor([1.0, 0.5])
    kl_divergence(mean, log_variance, prior_std).sum().backward()
    torch.testing.assert_close(mean.grad, (mean / prior_std**2).detach())
    torch.testing.assert_close(log_variance.grad, ((log_variance.exp() / prior_std**2 - 1) / 2).detach())


def test_no_latent_has_none():
    nothing = torch.zeros(4, 0)
    assert kl_divergence(nothing, nothing, torch.zeros(0)).shape == (4, 0)
