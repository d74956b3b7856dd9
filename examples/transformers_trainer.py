"""fastlift's adapters and loss under the transformers Trainer: ViTForImageClassification on random images.

    python examples/transformers_trainer.py --model google/vit-base-patch16-224-in21k

Without --model it is a small ViT with random weights. Prints images/s with plain PyTorch and with fastlift's ops.
"""

import argparse
import tempfile

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import fastlift

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="name of a ViT on the Hugging Face hub, which is downloaded")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()
COUNTS = [500, 200, 80, 30, 12, 5]
SMALL = {
    "hidden_size": 192,
    "num_attention_heads": 3,
    "num_hidden_layers": 6,
    "intermediate_size": 768,
    "image_size": 64,
}


def train(impl: str | None) -> tuple[float, float]:
    """Images per second, and the mean loss."""
    torch.manual_seed(0)
    if args.model:
        model = ViTForImageClassification.from_pretrained(args.model, num_labels=len(COUNTS))
    else:
        model = ViTForImageClassification(ViTConfig(num_labels=len(COUNTS), **SMALL))
    fastlift.add_adapters(model, rank=16, impl=impl)
    model.classifier.requires_grad_(True)
    loss = fastlift.LogitAdjustedCrossEntropy(COUNTS)
    size = model.config.image_size
    images = torch.randn(args.batch * args.steps, 3, size, size)
    data = [{"pixel_values": image, "labels": i % len(COUNTS)} for i, image in enumerate(images)]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=args.batch, optim="sgd", learning_rate=0.01,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(
            model,
            settings,
            train_dataset=data,
            compute_loss_func=lambda outputs, labels, num_items_in_batch=None: loss(outputs.logits, labels),
        )
        metrics = trainer.train().metrics
    return metrics["train_samples_per_second"], metrics["train_loss"]


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    print("{}: {:.1f} images/s, loss {:.3f}".format(name, *train(impl)))
