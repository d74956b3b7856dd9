"""The public classifier-with-loss op: checks, then the implementation that fits the tensor's device."""

import torch

from ..checks import check_activations, check_number, check_parameter, check_positive
from ..dispatch import Impl, choose
from .native import check_labels
from .reference import Normalize, cosine_cross_entropy_reference
from .registered import cosine_cross_entropy_forward


def cosine_cross_entropy(
    features: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    log_prior: torch.Tensor | None = None,
    *,
    scale: float = 25.0,
    tau: float = 1.0,
    bias: torch.Tensor | None = None,
    normalize: Normalize = "both",
    class_weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    impl: Impl | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Classifier and cross-entropy in one op that never stores the logits of the whole batch.

    ``z = scale * <f', w'> + bias``, ``loss = mean CE(z + tau * log_prior, labels)``, ``predictions = argmax z``

    ``normalize="both"``: f' = f / max(|f|, 1e-12) and the same for w (the cosine classifier, scale 25);
    ``"weight"``: only w (LIFT's L2-normed classifier: pass ``scale=1.0``; for the LayerNormed one normalise f first);
    ``"none"``: neither (the linear classifier: pass ``scale=1.0`` and ``bias``).

    Args:
        features: [B, D]; float32, bfloat16, float16 (float64: reference).
        weight: [C, D], float32 or the dtype of ``features``.
        labels: [B] int64 in 0..C-1, or -100 for a sample to leave out.
        log_prior: [C] constant added ``tau`` times to the logits in the loss only (logit adjustment).
        bias: [C], learnable.
        class_weight: [C] constant; the mean is the weighted mean of torch.nn.functional.cross_entropy.
        label_smoothing: in 0..1, as torch.nn.functional.cross_entropy.
        impl: None (by device and dtype), "reference", "native" (CPU) or "triton" (GPU).

    Returns:
        loss: scalar float32 (NaN where no sample counts, as PyTorch's own; gradients are then zero).
        predictions: [B] int64, argmax of the plain logits (without the prior).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or (on a CPU) a label out of
            range; the message names it. On a GPU such a label is a device-side assertion, as in PyTorch.
        RuntimeError: ``impl`` is not available here, or the call is inside a torch.func transform.

    Source: logit adjustment (Menon et al. 2021) on the cosine classifier, as LIFT (Shi et al., ICML 2024) uses it.
    """
    _check(features, weight, labels, log_prior, bias, class_weight, scale, tau, label_smoothing, normalize)
    chosen = choose(impl, "features", features)
    if chosen != "reference":
        learned = (features, weight, bias)
        grad = torch.is_grad_enabled()
        need = [grad and x is not None and x.requires_grad for x in learned]
        loss, predictions, *_ = cosine_cross_entropy_forward(
            features,
            weight,
            labels,
            log_prior,
            bias,
            class_weight,
            scale,
            tau,
            label_smoothing,
            normalize,
            *need,
            chosen,
        )
        return loss, predictions
    if features.device.type == "cpu" and not torch.compiler.is_compiling():
        check_labels(labels, weight.shape[0])
    return cosine_cross_entropy_reference(
        features, weight, labels, log_prior, bias, class_weight, scale, tau, label_smoothing, normalize
    )


def _check(
    features: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    log_prior: torch.Tensor | None,
    bias: torch.Tensor | None,
    class_weight: torch.Tensor | None,
    scale: float,
    tau: float,
    label_smoothing: float,
    normalize: str,
) -> None:
    check_activations("features", features)
    if features.dim() != 2 or features.shape[1] == 0:
        raise ValueError(f"features: expected [B, D], got shape {list(features.shape)}")
    batch, width = features.shape
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"weight: expected a tensor [C, {width}], got {type(weight).__name__}")
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight: expected [C, {width}] with at least one class, got shape {list(weight.shape)}")
    classes = weight.shape[0]
    check_parameter("weight", weight, (classes, width), "features", features)
    for name, tensor in (("log_prior", log_prior), ("bias", bias), ("class_weight", class_weight)):
        if tensor is not None:
            check_parameter(name, tensor, (classes,), "features", features)
            if name != "bias" and tensor.requires_grad:
                raise ValueError(f"{name}: expected a constant, got a tensor that requires gradients")
    if not isinstance(labels, torch.Tensor):
        raise TypeError(f"labels: expected a tensor of int64 of shape [{batch}], got {type(labels).__name__}")
    if labels.dtype != torch.int64 or tuple(labels.shape) != (batch,):
        raise ValueError(f"labels: expected int64 of shape [{batch}], got {labels.dtype} of shape {list(labels.shape)}")
    if labels.device != features.device:
        raise ValueError(f"labels: expected device {features.device}, where features lies, got {labels.device}")
    check_positive("scale", scale)
    check_number("tau", tau)
    check_number("label_smoothing", label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing: expected 0 to 1, got {label_smoothing}")
    if normalize not in ("both", "weight", "none"):
        raise ValueError(f"normalize: expected 'both', 'weight' or 'none', got {normalize!r}")
