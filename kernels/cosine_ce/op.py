"""The public classifier-with-loss op: checks, then the implementation that fits the tensor's device."""

import torch

from ..checks import as_float, check_once
from ..dispatch import Impl, choose
from ..registration import needs_gradients
from .arguments import ClassifierArguments, Normalize, check, check_constants, check_labels
from .reference import cosine_cross_entropy_reference
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
    numbers = (as_float(scale), as_float(tau), as_float(label_smoothing), normalize)
    arguments = ClassifierArguments(features, weight, labels, log_prior, bias, class_weight, *numbers)
    plain = check_once(check, arguments)
    check_constants(arguments)
    chosen = choose(impl, "features", features)
    if chosen != "reference":
        need = [needs_gradients((x,)) for x in (features, weight, bias)]
        loss, predictions, *_ = cosine_cross_entropy_forward.call((*arguments, *need, chosen), plain, any(need))
        return loss, predictions
    if features.device.type == "cpu" and not torch.compiler.is_compiling():
        check_labels(labels, weight.shape[0])
    return cosine_cross_entropy_reference(arguments)
