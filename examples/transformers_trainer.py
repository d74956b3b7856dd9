"""fastlift's adapters and loss with the transformers Trainer: ViTForImageClassification on random images.

    python examples/transformers_trainer.py --model google/vit-base-patch16-224-in21k

Without --model it trains a small ViT with random weights. It prints images/s with plain PyTorch and with fastlift's ops.
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

CLASS_COUNTS = [500, 200, 80, 30, 12, 5]  # training images of each class


def create_model() -> ViTForImageClassification:
    """A ViT of the hub, or a small untrained one."""
    if args.model is not None:
        return ViTForImageClassification.from_pretrained(args.model, num_labels=len(CLASS_COUNTS))
    config = ViTConfig(
        num_labels=len(CLASS_COUNTS),
        hidden_size=192,
        num_attention_heads=3,
        num_hidden_layers=6,
        intermediate_size=768,
        image_size=64,
    )
    return ViTForImageClassification(config)


def train(impl: str | None) -> tuple[float, float]:
    """Train for --steps steps. Return images per second, and the mean loss."""
    torch.manual_seed(0)
    model = create_model()

    # Freeze the ViT and add adapters. The classifier of transformers is trained as well.
    fastlift.add_adapters(model, rank=16, impl=impl)
    model.classifier.requires_grad_(True)
    loss_function = fastlift.LogitAdjustedCrossEntropy(CLASS_COUNTS)

    def compute_loss(outputs, labels, num_items_in_batch=None):
        return loss_function(outputs.logits, labels)

    size = model.config.image_size
    images = torch.randn(args.batch * args.steps, 3, size, size)
    data = [{"pixel_values": image, "labels": i % len(CLASS_COUNTS)} for i, image in enumerate(images)]
    with tempfile.TemporaryDirectory() as folder:
        training_arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=args.batch,
            optim="sgd",
            learning_rate=0.01,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(model, training_arguments, train_dataset=data, compute_loss_func=compute_loss)
        metrics = trainer.train().metrics
    return metrics["train_samples_per_second"], metrics["train_loss"]


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    speed, loss = train(impl)
    print(f"{name}: {speed:.1f} images/s, loss {loss:.3f}")
