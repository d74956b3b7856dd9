"""The fused ops written out, forward and backward, over any kind of number.

Over :class:`rounding.Bounded` numbers the results come with bounds on their error; over float32 tensors this is an
emulation of the ops, into which faults are planted to see that the bounds find them. Sums over tokens, samples, columns
and classes go through :class:`Steps` by name for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from rounding import Bounded, unit_roundoff

# N tokens, D width, r rank; B batch, C classes. `operands`: the dtype to which a product's operands are rounded.

LEADING = 32  # columns from which a GPU's kernel guesses a row's mean


class Float32(torch.Tensor):
    """float32 tensors with the methods that :class:`Bounded` has beyond a tensor's."""

    def rounded(self, dtype: torch.dtype) -> Any:
        return self.to(dtype).float()

    def where_positive(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self <= 0.0, 0.0, x)

    def phi(self) -> torch.Tensor:
        return torch.special.ndtr(self)

    def either(self, other: torch.Tensor) -> torch.Tensor:
        return self


def largest(x: Any) -> Any:
    """Of each row. Only an anchor, which cancels: which one a program takes is no error."""
    top = x.value.amax(1, keepdim=True) if isinstance(x, Bounded) else x.amax(1, keepdim=True)
    return Bounded.exact(top) if isinstance(x, Bounded) else top


class Steps:
    """One method a kind of step, each called with a place by name; here they do what they should."""

    def value(self, place: str, x: Any) -> Any:
        return x

    def product(self, place: str, a: Any, b: Any) -> Any:
        return a @ b

    def total(self, place: str, x: Any) -> Any:
        return x.sum(0)


@dataclass(frozen=True)
class Dtypes:
    """Where an implementation rounds to less than float32."""

    store: torch.dtype  # activations and their gradients
    operands: torch.dtype  # of the products, and hidden as kept for backward
    parameters: torch.dtype
    by_products: bool = (
        False  # the adapter by library products: what lies between two of them is stored as operands are
    )
    folded: bool = False  # the adapter by a GPU's kernels: operands hold gamma and s, and x is known after its product

    @property
    def stream(self) -> torch.dtype:
        """In which the residual is stored before the last product is added to it, where that is a step of its own."""
        return self.store if self.by_products else torch.float32


def between(dtypes: Dtypes, x: Any, a: Any, b: Any) -> Any:
    """The product x = a @ b as the next step reads it: as it is, or as a library leaves it.

    That may add the parts of a long sum in the dtype of the result (torch's allow_bf16_reduced_precision_reduction).
    """
    if not dtypes.by_products or not isinstance(x, Bounded) or dtypes.operands == torch.float32:
        return x
    parts = unit_roundoff(dtypes.operands) * (a.most @ b.most)
    return Bounded(x.value, x.error + parts).rounded(dtypes.operands)


def product_of_shifted(
    t: Any, mean: Any, rstd: Any, ln_eps: float, down: Any, operands: torch.dtype, steps: Steps
) -> Any:
    """x @ down.T, where operands are made before the whole row is known: less the mean of its leading columns."""
    few = t[:, :LEADING]
    near = few.sum(1, keepdim=True) / few.shape[1]
    head = few - near
    scale = 1 / ((head * head).sum(1, keepdim=True) / few.shape[1] + ln_eps).sqrt()
    operand = ((t - near) * scale).rounded(operands)
    row_sum = steps.value("row_sum", down.sum(1).reshape(1, down.shape[0]))
    return steps.product("down", operand, down.T) * (rstd / scale) - (mean - near) * rstd * row_sum


def adapter(n: dict[str, Any], dtypes: Dtypes, eps: float, ln_eps: float, steps: Steps) -> dict[str, Any]:
    """Results by name from t [N, D], the parameters, d_residual and (with LN_2) d_ln2; the maths are in the op's README."""
    operands, store = dtypes.operands, dtypes.store
    t, g, s = n["t"], n["d_residual"], n["scale"]
    gamma, beta = n["ln_weight"], n["ln_bias"]
    down, up = n["down_weight"], n["up_weight"]
    down_operand = (down * gamma if dtypes.folded else down).rounded(operands)
    up_operand = (up * s if dtypes.folded else up).rounded(operands)
    inside, outside = (1, 1) if dtypes.folded else (gamma, s)  # of a product
    down_bias, up_bias = steps.value("down_bias", n["down_bias"]), steps.value("up_bias", n["up_bias"])
    width, rank = down.shape[1], down.shape[0]
    eps, ln_eps = steps.value("eps", eps), steps.value("ln_eps", ln_eps)

    mean = t.sum(1, keepdim=True) / width
    centred = t - mean
    variance = (centred * centred).sum(1, keepdim=True) / width
    rstd = 1 / (variance + ln_eps).sqrt()
    x = centred * rstd
    base = beta.reshape(1, width) @ down.T + down_bias
    if dtypes.folded:
        pre = product_of_shifted(t, mean, rstd, ln_eps, down_operand, operands, steps) + base
    else:
        rounded_base = beta.reshape(1, width).rounded(operands) @ down_operand.T
        rounded_base = rounded_base + (down_bias.rounded(operands) if dtypes.by_products else down_bias)
        normed = (x * gamma).rounded(operands)
        pre = between(dtypes, steps.product("down", normed, down_operand.T), normed, down_operand.T) + rounded_base
    hidden = pre.relu().rounded(operands)
    residual = steps.product("up", hidden, up_operand.T) * outside + (up_bias * s + t).rounded(dtypes.stream)
    out = {"residual": residual.rounded(store)}

    g_operand = g.rounded(operands)
    d_hidden = between(dtypes, steps.product("d_hidden", g_operand, up_operand), g_operand, up_operand) * outside
    d_pre = hidden.where_positive(d_hidden)
    pre_operand = d_pre.rounded(operands)
    e = between(dtypes, steps.product("d_x", pre_operand, down_operand), pre_operand, down_operand) * inside
    if dtypes.by_products:
        mean_e, mean_ex = e.sum(1, keepdim=True), (e * x).sum(1, keepdim=True)
    else:
        # x W + base is hidden wherever d_pre is not zero: the means over D of the bottleneck's share need no pass over D.
        folded = down_operand if dtypes.folded else down * gamma
        mean_e = d_pre @ folded.sum(1).reshape(rank, 1)
        mean_ex = (d_pre * (hidden - base)).sum(1, keepdim=True)
    if "d_ln2" in n:
        rstd2 = 1 / (variance + eps).sqrt()
        x2 = centred * rstd2
        out["ln2"] = (x2 * n["ln2_weight"] + steps.value("ln2_bias", n["ln2_bias"])).rounded(store)
        ratio = ((variance + ln_eps) / (variance + eps)).sqrt()
        through = n["d_ln2"] * n["ln2_weight"]
        mean_e = through.sum(1, keepdim=True) * ratio + mean_e
        mean_ex = (through * x).sum(1, keepdim=True) * ratio * ratio * ratio + mean_ex
        e = e + through * ratio
        out["d_ln2_weight"], out["d_ln2_bias"] = (n["d_ln2"] * x2).sum(0), n["d_ln2"].sum(0)
    mean_e, mean_ex = steps.value("mean_e", mean_e / width), steps.value("mean_ex", mean_ex / width)
    out["d_t"] = (g + rstd * (e - mean_e - x * mean_ex)).rounded(store)

    normed_sum = steps.product("d_down_weight sum", pre_operand.T, x.rounded(operands))  # [r, D]
    hidden_sum = steps.product("d_up_weight sum", hidden.T, g_operand)  # [r, D]
    pre_sum, g_sum = steps.total("d_down_bias", pre_operand), steps.total("d_up_bias", g)
    gradients = {
        "d_ln_weight": (normed_sum * down).sum(0),
        "d_ln_bias": (pre_sum.reshape(rank, 1) * down).sum(0),
        "d_down_weight": normed_sum * gamma + pre_sum.reshape(rank, 1) * beta,
        "d_down_bias": pre_sum,
        "d_up_weight": steps.value("d_up_weight", (hidden_sum * s).T),
        "d_up_bias": g_sum * s,
        "d_scale": (hidden_sum.T * up).reshape(width * rank).sum(0, keepdim=True)
        + (up_bias * g_sum).sum(0, keepdim=True),
    }
    return {**out, **{name: gradient.rounded(dtypes.parameters) for name, gradient in gradients.items()}}


def cosine_cross_entropy(
    number: Callable[[torch.Tensor], Any],
    n: dict[str, Any],
    labels: torch.Tensor,
    dtypes: Dtypes,
    steps: Steps,
    *,
    d_loss: float,
    scale: float = 25.0,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    normalize: str = "both",
) -> dict[str, Any]:
    """Results by name, and plain logits [B, C], from features, weight and the vectors over classes that are given.

    ``number`` makes what else is needed: ones and masks.
    """
    f, w = n["features"], n["weight"]
    label_smoothing = steps.value("label_smoothing", label_smoothing)
    operands, classes = dtypes.operands, w.shape[0]
    counts = number((labels != -100).float().reshape(-1, 1))  # [B, 1]
    label = labels.clamp_min(0).reshape(-1, 1)
    own_class = number(torch.zeros(len(labels), classes, device=labels.device).scatter_(1, label, 1.0)) * counts
    each = (
        n["class_weight"].reshape(1, classes)
        if "class_weight" in n
        else number(torch.ones(1, classes, device=labels.device))
    )
    row_weight = each.reshape(classes)[label] * counts  # [B, 1]
    total_weight = row_weight.sum(0, keepdim=True)

    f_scale = (
        1 / (f * f).sum(1, keepdim=True).sqrt()
        if normalize == "both"
        else number(torch.ones(len(labels), 1, device=labels.device))
    )
    w_scale = (
        1 / (w * w).sum(1, keepdim=True).sqrt()
        if normalize != "none"
        else number(torch.ones(classes, 1, device=labels.device))
    )
    column = w_scale.T * scale
    raw = steps.product("logits", f, w.rounded(operands).T)
    z = raw * f_scale * column
    if "bias" in n:
        z = z + steps.value("bias", n["bias"])
    adjusted = z + steps.value("log_prior", n["log_prior"]) * tau if "log_prior" in n else z
    anchor = largest(adjusted)
    exponentials = steps.value("exponentials", (adjusted - anchor).exp())
    lse = anchor + exponentials.sum(1, keepdim=True).log()
    losses = (lse - adjusted.gather(1, label)) * row_weight * (1.0 - label_smoothing)
    hit = row_weight * (1.0 - label_smoothing) / total_weight
    share, even = hit, None
    if label_smoothing:
        every, part = each.sum(1, keepdim=True), counts * (label_smoothing / classes)
        losses = losses + (every * lse - (adjusted * each).sum(1, keepdim=True)) * part
        even = part / total_weight
        share = hit + even * every
    out = {"logits": z, "loss": (losses.sum(0, keepdim=True) / total_weight).reshape(())}

    d_z = (adjusted - lse).exp() * share - own_class * hit
    if even is not None:
        d_z = d_z - each * even
    d_z = steps.value("d_z", d_z)
    raw_gradient = d_z * column * f_scale  # of the raw products
    operand = raw_gradient.rounded(operands)
    d_f, d_w = operand @ w.rounded(operands), steps.product("d_weight", operand.T, f)
    # The part of a gradient along its row, from either side of the product.
    if normalize == "both":
        along = (d_f * f).sum(1, keepdim=True).either((raw_gradient * raw).sum(1, keepdim=True))
        d_f = d_f - f * (steps.value("along", along) * f_scale * f_scale)
    if normalize != "none":
        along = (d_w * w).sum(1, keepdim=True).either((raw_gradient * raw).sum(0, keepdim=True).T)
        d_w = d_w - w * (along * w_scale * w_scale)
    out["d_features"] = (d_f * d_loss).rounded(dtypes.store)
    out["d_weight"] = (d_w * d_loss).rounded(dtypes.parameters)
    if "bias" in n:
        out["d_bias"] = ((d_z * column).sum(0) / column.reshape(classes) * d_loss).rounded(dtypes.parameters)
    return out


def activation(x: Any, d_y: Any, kind: str, store: torch.dtype, steps: Steps) -> dict[str, Any]:
    """y and d_x of QuickGELU or GELU."""
    y, slope = activated(x, kind, steps)
    return {"y": y.rounded(store), "d_x": (slope * d_y).rounded(store)}


def activated(x: Any, kind: str, steps: Steps) -> tuple[Any, Any]:
    """(act(x), act'(x))."""
    if kind == "quick_gelu":
        factor = steps.value("factor", 1.702)
        s = 1 / (1 + (x * -factor).exp())
        return x * s, s * (1 + x * factor * steps.value("slope", 1 - s))
    phi = steps.value("phi", x.phi())
    return x * phi, phi + x * (x * x * -0.5).exp() * 0.3989422804014327


def mlp(n: dict[str, Any], dtypes: Dtypes, kind: str, steps: Steps) -> dict[str, Any]:
    """y, d_x and d_residual from x, residual, d_y [N, D], the weights and the vectors that are given.

    ``dtypes.by_products``: all products are a library's, which stores each; else the last of backward alone is.
    """
    store, stream = dtypes.store, dtypes.stream
    d_y, residual = n["d_y"], n["residual"]
    w_in, w_out, has_scale = n["in_weight"], n["out_weight"], "scale" in n

    pre = between(dtypes, steps.product("pre", n["x"], w_in.T), n["x"], w_in.T)
    if "in_bias" in n:
        pre = pre + steps.value("in_bias", n["in_bias"])
    pre = pre.rounded(store)
    act, slope = activated(pre, kind, steps)
    hidden = act.rounded(store)
    product = between(dtypes, steps.product("out", hidden, w_out.T), hidden, w_out.T)
    bias = steps.value("out_bias", n["out_bias"]) if "out_bias" in n else 0
    out = (product + bias).rounded(stream)
    if has_scale:
        out = (out * steps.value("scale", n["scale"])).rounded(stream)
    y = out + steps.value("residual", residual)
    if not has_scale:
        y = y.either((residual + bias).rounded(stream) + product)  # the residual as the product's C

    d_out, weight = d_y, w_out
    if has_scale and dtypes.by_products:
        d_out = (d_y * n["scale"]).rounded(store)
    elif has_scale:  # a library's product of a weight that is scaled before
        weight = (w_out * n["scale"].reshape(w_out.shape[0], 1)).rounded(store)
    d_hidden = between(dtypes, steps.product("d_hidden", d_out, weight), d_out, weight)
    d_pre = (d_hidden * slope).rounded(store)
    d_x = between(replace(dtypes, by_products=True), steps.product("d_x", d_pre, w_in), d_pre, w_in)
    return {"y": y.rounded(store), "d_x": d_x.rounded(store), "d_residual": d_y}
