"""Calls of the ops: made, run in any implementation, and written out over numbers that bound their error (:mod:`rounding`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from fused_maths import Dtypes, Float32, Steps, activation, adapter, cosine_cross_entropy, mlp
from rounding import Bounded

import fastlift_kernels

ADAPTER_NAMES = (
    "ln2_weight", "ln2_bias", "ln_weight", "ln_bias", "down_weight", "down_bias", "up_weight", "up_bias", "scale",
)  # fmt: skip
MOST_FUSED_RANK = 128  # of the Triton kernels; library products above it
Results = dict[str, torch.Tensor]


@dataclass
class Case:
    """Tensors of one call of an op, its options, and gradients of its outputs."""

    tensors: dict[str, torch.Tensor | None]
    options: dict[str, Any]
    gradients: list[torch.Tensor]

    def leaves(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor | None]:
        out: dict[str, torch.Tensor | None] = {}
        for name, x in self.tensors.items():
            if x is None or not x.is_floating_point():
                out[name] = x
            else:
                out[name] = (x.to(dtype) if dtype else x).clone().requires_grad_(x.requires_grad)
        return out

    def constants(self) -> dict[str, torch.Tensor | None]:
        """The tensors, none of which requires a gradient."""
        return {name: None if x is None else x.detach() for name, x in self.tensors.items()}

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        """Outputs and gradients by name; with ``dtype`` every tensor is converted to it first."""
        raise NotImplementedError

    def written_out(self, number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps) -> dict[str, Any]:
        """The results, and what else :mod:`fused_maths` tells, over another kind of number; tokens in one dimension."""
        raise NotImplementedError

    def on(self, device: str | torch.device) -> Any:
        """The same call on another device."""
        tensors = {
            n: None if x is None else x.detach().to(device).requires_grad_(x.requires_grad)
            for n, x in self.tensors.items()
        }
        return replace(self, tensors=tensors, gradients=[g.to(device) for g in self.gradients])

    def dtypes(self, impl: str) -> Dtypes:
        """Where ``impl`` rounds: the native library multiplies in float32, Triton what is stored."""
        store, parameters = self.tensors[self._activations], self.tensors[self._parameter]
        assert store is not None
        assert parameters is not None
        return Dtypes(store.dtype, torch.float32 if impl == "native" else store.dtype, parameters.dtype)

    def bounds(self, impl: str) -> dict[str, Bounded]:
        return self.written_out(Bounded.exact, self.dtypes(impl), Steps())

    def emulated(self, steps: Steps) -> Results:
        """What a native op would return that took these ``steps``."""
        dtypes = self.dtypes("native")
        written = self.written_out(lambda x: x.detach().float().as_subclass(Float32), dtypes, steps)
        plain = {name: x.as_subclass(torch.Tensor) for name, x in written.items()}
        if "logits" in plain:
            plain["predictions"] = plain["logits"].argmax(1)
        wanted = [name for name in plain if name in self.outputs or self._is_wanted_gradient(name)]
        return {name: self.stored(name, plain[name]) for name in wanted}

    def stored(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """``x`` in the shape and dtype of the result ``name``: a gradient's are those of its tensor."""
        form = self.tensors[name[2:] if name.startswith("d_") else self._activations]
        assert form is not None
        return x.view(form.shape).to(form.dtype)

    def _is_wanted_gradient(self, name: str) -> bool:
        of = self.tensors.get(name[2:]) if name.startswith("d_") else None
        return of is not None and of.requires_grad

    outputs: tuple[str, ...] = ("y",)
    _activations: str = "x"
    _parameter: str = "x"


@dataclass
class AdapterCase(Case):
    outputs: tuple[str, ...] = ("ln2", "residual")
    _activations: str = "t"
    _parameter: str = "down_weight"
    products: torch.dtype | None = None  # where they are not taken in the dtype of t: under autocast on a GPU

    def dtypes(self, impl: str) -> Dtypes:
        found = super().dtypes(impl)
        rank = self.tensors["down_weight"].shape[0]  # type: ignore[union-attr]
        by_products = impl == "triton" and rank > MOST_FUSED_RANK
        operands = found.operands if impl == "native" or self.products is None else self.products
        return replace(found, operands=operands, by_products=by_products, folded=impl == "triton" and not by_products)

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        leaves = self.leaves(dtype)
        ln2, residual = fastlift_kernels.adapter(**leaves, **self.options, impl=impl)  # type: ignore[arg-type]
        outputs = [x for x in (ln2, residual) if x is not None]
        pairs = [(x, g.to(x.dtype)) for x, g in zip(outputs, self.gradients, strict=True) if x.requires_grad]
        gradients = _gradients([x for x, _ in pairs], leaves, [g for _, g in pairs])
        return {**({} if ln2 is None else {"ln2": ln2.detach()}), "residual": residual.detach(), **gradients}

    def written_out(self, number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps) -> dict[str, Any]:
        numbers = {name: number(x) for name, x in self.tensors.items() if x is not None}
        width = self.tensors["t"].shape[-1]  # type: ignore[union-attr]
        numbers["d_residual"] = number(self.gradients[-1].reshape(-1, width))
        if len(self.gradients) == 2:
            numbers["d_ln2"] = number(self.gradients[0].reshape(-1, width))
        numbers["t"] = numbers["t"].reshape(-1, width)
        eps = self.options.get("eps", 1e-5)
        return adapter(numbers, dtypes, eps, self.options.get("ln_eps", eps), steps)


@dataclass
class CosineCase(Case):
    outputs: tuple[str, ...] = ("loss", "predictions")
    _activations: str = "features"
    _parameter: str = "weight"

    def stored(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x if name in self.outputs else super().stored(name, x)

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        leaves = self.leaves(dtype)
        loss, predictions = fastlift_kernels.cosine_cross_entropy(**leaves, **self.options, impl=impl)  # type: ignore[arg-type]
        gradients = _gradients([loss], leaves, [self.gradients[0].to(loss.dtype)])
        return {"loss": loss.detach(), "predictions": predictions, **gradients}

    def written_out(self, number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps) -> dict[str, Any]:
        numbers = {name: number(x) for name, x in self.tensors.items() if x is not None and name != "labels"}
        labels = self.tensors["labels"]
        assert labels is not None
        return cosine_cross_entropy(
            number, numbers, labels, dtypes, steps, d_loss=float(self.gradients[0]), **self.options
        )


@dataclass
class ActivationCase(Case):
    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        leaves = self.leaves(dtype)
        y = getattr(fastlift_kernels, self.options["kind"])(leaves["x"], impl=impl)
        return {"y": y.detach(), **_gradients([y], leaves, [self.gradients[0].to(y.dtype)])}

    def written_out(self, number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps) -> dict[str, Any]:
        x = self.tensors["x"]
        assert x is not None
        return activation(number(x), number(self.gradients[0]), self.options["kind"], dtypes.store, steps)


@dataclass
class MlpCase(Case):
    _parameter: str = "in_weight"

    def dtypes(self, impl: str | None) -> Dtypes:
        """PyTorch's products store what they make; nothing multiplies in more than what is stored."""
        found = super().dtypes("triton")
        return replace(found, by_products=impl in (None, "reference"))

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        leaves = self.leaves(dtype)
        y = fastlift_kernels.mlp(**leaves, **self.options, impl=impl)  # type: ignore[arg-type]
        found = {"y": y.detach().clone()}
        return {**found, **_gradients([y], leaves, [self.gradients[0].to(y.dtype)])}

    def written_out(self, number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps) -> dict[str, Any]:
        numbers = {name: number(x) for name, x in self.tensors.items() if x is not None}
        width = self.tensors["x"].shape[-1]  # type: ignore[union-attr]
        numbers["d_y"] = number(self.gradients[0].reshape(-1, width))
        for name in ("x", "residual"):
            numbers[name] = numbers[name].reshape(-1, width)
        return mlp(numbers, dtypes, self.options["kind"], steps)


def _gradients(
    outputs: list[torch.Tensor], leaves: dict[str, torch.Tensor | None], of_outputs: list[torch.Tensor]
) -> Results:
    wanted = {name: x for name, x in leaves.items() if x is not None and x.requires_grad}
    gradients = torch.autograd.grad(outputs, list(wanted.values()), of_outputs)
    return {f"d_{name}": g for name, g in zip(wanted, gradients, strict=True)}


def adapter_case(
    *shape: int,
    rank: int,
    dtype: torch.dtype = torch.float32,
    parameter_dtype: torch.dtype = torch.float32,
    ln2: bool = True,
    need_t: bool = True,
    outlier: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> AdapterCase:
    """A call on t of ``shape`` with every parameter away from its start value."""
    draw = torch.Generator().manual_seed(seed)
    width = shape[-1]

    def normal(*size: int, by: float = 1.0, around: float = 0.0, to: torch.dtype = parameter_dtype) -> torch.Tensor:
        return (torch.randn(*size, generator=draw) * by + around).to(to)

    t = normal(*shape, by=1.5, around=0.3, to=torch.float32)
    if outlier:
        t[..., width // 3] += outlier
    sizes = {
        "ln2_weight": (width,), "ln2_bias": (width,), "ln_weight": (width,), "ln_bias": (width,),
        "down_weight": (rank, width), "down_bias": (rank,), "up_weight": (width, rank), "up_bias": (width,), "scale": (1,),
    }  # fmt: skip
    tensors: dict[str, torch.Tensor | None] = {"t": t.to(dtype).requires_grad_(need_t)}
    for name in ADAPTER_NAMES:
        around = 1.0 if name in ("ln2_weight", "ln_weight", "scale") else 0.0
        by = width**-0.5 if name == "down_weight" else rank**-0.5 if name == "up_weight" else 0.2
        tensors[name] = normal(*sizes[name], by=by, around=around).requires_grad_(not name.startswith("ln2"))
    if not ln2:
        tensors["ln2_weight"] = tensors["ln2_bias"] = None
    gradients = [normal(*shape, to=dtype) for _ in range(2 if ln2 else 1)]
    return AdapterCase(tensors, options, gradients)


def cosine_case(
    batch: int,
    width: int,
    classes: int,
    *,
    dtype: torch.dtype = torch.float32,
    prior: bool = True,
    bias: bool = False,
    weighted: bool = False,
    seed: int = 0,
    **options: Any,
) -> CosineCase:
    """A call in which every fifth label is left out."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch,), generator=draw)
    labels[1::5] = -100
    tensors: dict[str, torch.Tensor | None] = {
        "features": torch.randn(batch, width, generator=draw).to(dtype).requires_grad_(),
        "weight": torch.randn(classes, width, generator=draw).requires_grad_(),
        "labels": labels,
        "log_prior": torch.randn(classes, generator=draw) if prior else None,
        "bias": torch.randn(classes, generator=draw).requires_grad_() if bias else None,
        "class_weight": torch.rand(classes, generator=draw) + 0.1 if weighted else None,
    }
    return CosineCase(tensors, options, [torch.tensor(1.7)])


def activation_case(kind: str, count: int, *, dtype: torch.dtype = torch.float32) -> ActivationCase:
    """A call on numbers across -9 to 9."""
    x = torch.linspace(-9.0, 9.0, count).to(dtype)
    return ActivationCase({"x": x.requires_grad_()}, {"kind": kind}, [torch.linspace(0.5, 2.0, count).to(dtype)])


def mlp_case(
    *shape: int,
    hidden: int,
    dtype: torch.dtype = torch.float32,
    kind: str = "quick_gelu",
    biases: bool = True,
    scaled: bool = False,
    need_x: bool = True,
    seed: int = 0,
) -> MlpCase:
    """A call on x of ``shape``, everything but x and the residual frozen."""
    draw = torch.Generator().manual_seed(seed)
    width = shape[-1]

    def normal(*size: int, by: float = 1.0) -> torch.Tensor:
        return (torch.randn(*size, generator=draw) * by).to(dtype)

    tensors: dict[str, torch.Tensor | None] = {
        "x": normal(*shape).requires_grad_(need_x),
        "in_weight": normal(hidden, width, by=1.5 * width**-0.5),
        "in_bias": normal(hidden, by=0.5) if biases else None,
        "out_weight": normal(width, hidden, by=2.0 * hidden**-0.5),
        "out_bias": normal(width, by=0.5) if biases else None,
        "residual": normal(*shape).requires_grad_(),
        "scale": normal(width, by=0.7) if scaled else None,
    }
    return MlpCase(tensors, {"kind": kind}, [normal(*shape)])
