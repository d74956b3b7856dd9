"""Classes in shares: what several processes would compute of theirs is together the loss over all classes, in float64 and fp32."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from fake_gpu import GPU, fake_gpu
from hypothesis import given
from hypothesis import strategies as st
from syncs import no_host_sync, repeatable_sums
from torch import Tensor

from fastlift_kernels.cosine_ce import shard
from fastlift_kernels.cosine_ce.arguments import Normalize
from fastlift_kernels.cosine_ce.shard import (
    RowGradients,
    RowStatistics,
    ShardArguments,
    features_gradient,
    row_statistics,
    shard_gradients,
)

# B batch, D width, C classes


def unshared(a: ShardArguments) -> tuple[Tensor, Tensor]:
    """(z, y), both [B, C], by the definition."""
    weight = a.weight if a.normalize == "none" else F.normalize(a.weight, dim=1)
    features = F.normalize(a.features, dim=1) if a.normalize == "both" else a.features
    z = a.scale * features @ weight.T
    z = z if a.bias is None else z + a.bias
    y = z if a.log_prior is None else z + a.tau * a.log_prior
    if a.margins is not None:
        y = y - F.one_hot(a.labels, len(a.weight)) * a.margins
    return z, y


def shares_of(a: ShardArguments, cuts: list[int]) -> list[ShardArguments]:
    """The arguments of each process, whose first classes are 0 and the ``cuts``."""
    ends = [*cuts, len(a.weight)]
    return [
        a._replace(
            weight=a.weight[start:end],
            labels=a.labels - start,
            log_prior=None if a.log_prior is None else a.log_prior[start:end],
            bias=None if a.bias is None else a.bias[start:end],
            margins=None if a.margins is None else a.margins[start:end],
            even=None if a.even is None else a.even[start:end],
            others=None if a.others is None else a.others - start,
        )
        for start, end in zip([0, *cuts], ends, strict=True)
    ]


def lse_of(found: list[RowStatistics]) -> Tensor:
    """log sum exp over the classes of all shares [B], in float64."""
    return torch.stack([(row.total.double().log() + row.top.double()) for row in found]).logsumexp(dim=0)


@st.composite
def calls(draw: st.DrawFn) -> tuple[ShardArguments, list[int], Tensor]:
    """Arguments in float64 that fp32 holds exactly, where classes are cut, and a gradient of each loss."""
    seed, batch, classes = draw(st.integers(0, 10**6)), draw(st.integers(1, 9)), draw(st.integers(2, 40))
    cuts = sorted(draw(st.sets(st.integers(1, classes - 1), max_size=5)))
    normalize: Normalize = draw(st.sampled_from(get_args(Normalize)))
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    width, spread = draw(st.integers(1, 20)), draw(st.sampled_from([0.1, 1.0, 10.0]))
    prior = normal(classes) if draw(st.booleans()) else None
    labels = torch.randint(classes, (batch,), generator=generator)
    if prior is not None and draw(st.booleans()):
        prior[torch.rand(classes, generator=generator) < 0.5] = -torch.inf
        prior[labels] = 0.5
    bias = normal(classes) if normalize == "none" else None
    features, weight = spread * normal(batch, width), spread * normal(classes, width)
    scale = draw(st.sampled_from([1.0, 25.0]))
    tau = draw(st.sampled_from([0.5, 1.0]))
    margins = normal(classes) if draw(st.booleans()) else None
    smooths = draw(st.booleans()) and (prior is None or bool(prior.isfinite().all()))
    even = torch.rand(classes, generator=generator).double() / classes if smooths else None
    finite = torch.arange(classes) if prior is None else prior.isfinite().nonzero()[:, 0]
    others = finite[torch.randint(len(finite), (batch,), generator=generator)]
    is_mixed = margins is None and draw(st.booleans())
    a = ShardArguments(
        features, weight, labels, prior, bias, scale, tau, normalize, margins, even, others if is_mixed else None
    )
    return a, cuts, normal(batch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(calls())
def test_shares_make_up_the_whole(dtype: torch.dtype, call: tuple[ShardArguments, list[int], Tensor]) -> None:
    """Bounds of rounding: of logits by the length of a sum, of exp by that of logits, of gradients by the sums over them."""
    exact, cuts, d = call
    features, weight = exact.features.clone().requires_grad_(), exact.weight.clone().requires_grad_()
    bias = None if exact.bias is None else exact.bias.clone().requires_grad_()
    z, y = unshared(exact._replace(features=features, weight=weight, bias=bias))
    losses = F.cross_entropy(y, exact.labels, reduction="none")
    smooth = torch.zeros(len(d)) if exact.even is None else -(y.log_softmax(dim=1) * exact.even).sum(dim=1)
    second = losses * 0 if exact.others is None else F.cross_entropy(y, exact.others, reduction="none")
    (losses + 0.5 * smooth + 0.25 * second).backward(d)
    z = z.detach()

    as_given = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in exact]
    shares = shares_of(ShardArguments(*as_given), cuts)
    found = [row_statistics(share) for share in shares]
    lse, own = lse_of(found), sum(row.own for row in found)

    (batch, width), classes, u = exact.features.shape, len(exact.weight), torch.finfo(dtype).eps
    f_length = torch.ones(batch) if exact.normalize == "both" else exact.features.norm(dim=1)
    w_length = torch.ones(classes) if exact.normalize != "none" else exact.weight.norm(dim=1)
    size = exact.scale * f_length.max() * w_length.max() + (0 if exact.bias is None else exact.bias.abs().max())
    if exact.log_prior is not None:
        size = size + exact.tau * exact.log_prior[exact.log_prior.isfinite()].abs().max()
    size = size + (0 if exact.margins is None else exact.margins.abs().max())
    off = (width + 8) * u * float(size)  # of a logit
    p_off = 2 * off + (classes + 20) * u  # of a probability
    assert ((lse - own - losses.detach()).abs() <= 2 * off + (classes + 16) * u).all()
    each = RowGradients(d, d)
    if exact.others is not None:
        found_second = lse - sum(row.other for row in found)
        assert ((found_second - second.detach()).abs() <= 2 * off + (classes + 16) * u).all()
        each = RowGradients(1.25 * d, d, None, 0.25 * d)
    if exact.even is not None:
        total = exact.even.sum()
        found_smooth = total * lse - sum(row.even for row in found)
        assert ((found_smooth - smooth.detach()).abs() <= 2 * off + (classes + 16) * u).all()
        each = each._replace(lse=each.lse + 0.5 * total * d, even=0.5 * d)
    each = RowGradients(*[None if one is None else one.to(dtype) for one in each])

    best = torch.stack([row.best for row in found])
    winner = best.argmax(dim=0)  # the first share of those with the largest
    starts = torch.tensor([0, *cuts])
    prediction = torch.stack([row.prediction for row in found]).gather(0, winner[None])[0] + starts[winner]
    assert (z.gather(1, prediction[:, None])[:, 0] >= z.amax(dim=1) - 2 * off).all()

    gradients = [
        shard_gradients(share, row.exponentials, (row.top.double() - lse).exp().to(dtype), each, True)
        for share, row in zip(shares, found, strict=True)
    ]
    d_features = features_gradient(sum(g[0] for g in gradients), as_given[0], exact.normalize)  # type: ignore[misc]
    f_inverse = 1 / exact.features.norm(dim=1) if exact.normalize == "both" else torch.ones(batch)
    w_inverse = 1 / exact.weight.norm(dim=1) if exact.normalize != "none" else torch.ones(classes)
    f_bound = 3 * exact.scale * d.abs() * f_inverse * float(w_length.max()) * (p_off + 2 * (classes + width + 8) * u)
    w_bound = 3 * exact.scale * w_inverse * (d.abs() * f_length).sum() * (p_off + 2 * (batch + width + 8) * u)
    assert features.grad is not None
    assert weight.grad is not None
    assert ((d_features - features.grad).abs() <= f_bound[:, None]).all()
    assert ((torch.cat([g[1] for g in gradients]) - weight.grad).abs() <= w_bound[:, None]).all()
    if bias is not None and bias.grad is not None:
        d_bias = torch.cat([g[2] for g in gradients if g[2] is not None])
        assert ((d_bias - bias.grad).abs() <= 3 * d.abs().sum() * (p_off + 2 * (batch + 8) * u)).all()


def test_a_share_without_probability_has_no_gradient() -> None:
    """All of its classes are ruled out by the prior: no NaN of inf - inf."""
    weight = torch.randn(3, 4)
    out = torch.full((3,), -torch.inf)
    a = ShardArguments(torch.randn(5, 4), weight, torch.full((5,), -2), out, None, 1.0, 1.0, "none")
    found = row_statistics(a)
    assert torch.equal(found.total, torch.zeros(5))
    assert torch.equal(found.own, torch.zeros(5))
    lse = torch.zeros(5)
    one = RowGradients(torch.ones(5), torch.ones(5))
    d_features, d_weight, _ = shard_gradients(a, found.exponentials, (found.top - lse).exp(), one, True)
    assert torch.equal(d_features, torch.zeros(5, 4))
    assert torch.equal(d_weight, torch.zeros(3, 4))


def test_the_label_of_another_share_is_nobody_s() -> None:
    """Labels below this share's classes and behind them, beside one of its own."""
    a = ShardArguments(
        torch.ones(3, 1), torch.tensor([[1.0], [2.0]]), torch.tensor([-1, 2, 1]), None, None, 1.0, 1.0, "none"
    )
    assert row_statistics(a).own.tolist() == [0.0, 0.0, 2.0]
    found = row_statistics(a)
    d = torch.tensor([2.0, 3.0, 5.0])
    _, d_weight, _ = shard_gradients(a, found.exponentials, torch.zeros(3), RowGradients(d, d), False)
    assert d_weight.tolist() == [[0.0], [-5.0]]


def of(seed: int, batch: int, width: int, classes: int, normalize: Normalize, dtype: torch.dtype) -> ShardArguments:
    """Features and weight of 16 bits, labels of which about half are these classes."""
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(rows, width, generator=generator).to(dtype) for rows in (batch, classes))
    labels = torch.randint(-classes, classes, (batch,), generator=generator)
    prior, bias, margins, even = torch.randn(4, classes, generator=generator)
    return ShardArguments(
        features,
        weight.float(),
        labels,
        prior,
        bias if normalize == "none" else None,
        4.0,
        1.0,
        normalize,
        margins,
        even,
        labels.flip(0),
    )


def both_ways(a: ShardArguments, d: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients of the loss CE(y, label) + sum_c even_c CE(y, c) + CE(y, other), where these classes are all there is."""
    assert a.even is not None
    found = row_statistics(a)
    share = (1 / found.total).to(d)
    each = RowGradients(d * (2 + a.even.sum()), d, d, d)
    d_features, d_weight, _ = shard_gradients(a, found.exponentials, share, each, True)
    assert d_features is not None
    return features_gradient(d_features, a.features, a.normalize), d_weight


@pytest.mark.parametrize("normalize", get_args(Normalize))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_as_on_a_gpu(normalize: Normalize, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the products take 16 bits: operands are exact here, the gradient of the logits is rounded once."""
    a = of(0, 7, 16, 11, normalize, dtype)
    d = torch.randn(7, generator=torch.Generator().manual_seed(1))
    exact = a._replace(
        **{
            name: x.double()
            for name, x in a._asdict().items()
            if name in ("features", "weight", "bias") and x is not None
        }
    )
    expected = both_ways(exact, d.double())
    monkeypatch.setattr(shard, "_is_low", lambda a: a.features.itemsize == 2)
    for scale in (1.0, 2.0**20):  # of fp16's gradient scaler: the gradient of the logits alone would overflow
        found = both_ways(a, scale * d)
        for mine, theirs in zip(found, expected, strict=True):
            # Each of the sums rounds its terms by half a unit, and a norm's part is taken out: three times that at most.
            assert (mine / scale - theirs).norm() <= 3 * torch.finfo(dtype).eps * theirs.norm()


@pytest.mark.parametrize("normalize", get_args(Normalize))
def test_nothing_waits_and_sums_repeat(normalize: Normalize) -> None:
    a = of(0, 7, 16, 11, normalize, torch.float32)
    with no_host_sync():
        both_ways(a, torch.ones(7))
    with repeatable_sums():
        both_ways(a, torch.ones(7))


@pytest.mark.parametrize("normalize", get_args(Normalize))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_lies_on_the_gpu(normalize: Normalize, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch) as gpu:
        a = ShardArguments(*[gpu.tensor(x) if isinstance(x, Tensor) else x for x in of(0, 7, 16, 11, normalize, dtype)])
        found = row_statistics(a)
        d_features, d_weight = both_ways(a, gpu.tensor(torch.ones(7)))
        for tensor in (*found, d_features, d_weight):
            assert tensor.device == GPU
        assert d_features.dtype == d_weight.dtype == found.total.dtype == torch.float32
