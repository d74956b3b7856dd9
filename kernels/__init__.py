"""The fused operations of LIFT, usable without fastlift: torch (and, on GPUs, triton) are all they need.

``adapter``, ``cosine_cross_entropy``, ``quick_gelu`` and ``gelu`` choose their implementation by the tensor's device;
``available()`` says what this machine has and what is missing.
"""

# Python started in the repository's root finds this folder as ``kernels``, a name under which transformers looks for
# Hugging Face's package. Then it must be harmless: the ops can be registered once only.
if __name__ != "kernels":
    from .activation.op import gelu, quick_gelu
    from .adapter.op import adapter
    from .attention.configuration import attention_tokens
    from .attention.op import attention
    from .cosine_ce.op import cosine_cross_entropy
    from .dispatch import Impl, available, code_digest, plain
    from .mlp.op import mlp, mlp_reason
    from .quantise.op import (
        activation_backward_quantise,
        activation_quantise,
        layer_norm_quantise,
        layer_norm_quantise_backward,
        quantise_rows,
    )

    __all__ = [
        "Impl",
        "activation_backward_quantise",
        "activation_quantise",
        "adapter",
        "attention",
        "attention_tokens",
        "available",
        "code_digest",
        "cosine_cross_entropy",
        "gelu",
        "layer_norm_quantise",
        "layer_norm_quantise_backward",
        "mlp",
        "mlp_reason",
        "plain",
        "quantise_rows",
        "quick_gelu",
    ]
