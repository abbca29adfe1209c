"""Score rules against their definitions."""

import pytest

torch = pytest.importorskip("torch")

from tokenprune.engine.rules import head_probability, mean_and_peak  # noqa: E402


def test_mean_and_peak_of_grouped_queries():
    """Against attention written out, each query head with the key of its group."""
    torch.manual_seed(0)
    query, keys = torch.randn(6, 3, 8), torch.randn(2, 11, 8)
    whole = torch.stack([(query[head] @ keys[head // 3].t() * 0.3).softmax(-1) for head in range(6)])
    mean, peak = mean_and_peak(query, keys, 0.3)
    assert torch.allclose(mean, whole.mean(1), atol=1e-6)
    assert torch.allclose(peak, whole.amax(1), atol=1e-6)
    assert torch.equal(head_probability(query, keys, 0.3), mean)
    assert torch.equal(head_probability(query, keys, 0.3, peak=True), peak)
