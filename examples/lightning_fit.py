"""fastlift's adapters and loss in a LightningModule around a timm ViT, on random images.

    python examples/lightning_fit.py --model vit_base_patch16_224 --size 224 --batch 32

It prints images/s with plain PyTorch and with fastlift's ops.
"""

import argparse
import logging
import time

import lightning
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastlift

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="vit_tiny_patch16_224")
parser.add_argument("--size", type=int, default=64, help="image size in pixels")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()

CLASS_COUNTS = [500, 200, 80, 30, 12, 5]  # training images of each class


class LongTailed(lightning.LightningModule):
    """A frozen ViT with adapters, and a cosine classifier with its loss."""

    def __init__(self, impl: str | None) -> None:
        super().__init__()
        self.vit = timm.create_model(args.model, img_size=args.size, num_classes=0)
        fastlift.add_adapters(self.vit, rank=16, impl=impl)
        self.head = fastlift.FusedCosineLoss(self.vit.num_features, CLASS_COUNTS, impl=impl)
        self.start = 0.0

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if index == 1:  # step 0 is the warm-up
            self.start = time.perf_counter()
        images, labels = batch
        return self.head(self.vit(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=5e-4)


def train(impl: str | None) -> float:
    """Train for --steps steps after a warm-up step. Return images per second."""
    lightning.seed_everything(0, verbose=False)
    images = torch.randn(args.batch * (args.steps + 1), 3, args.size, args.size)
    labels = torch.randint(0, len(CLASS_COUNTS), (len(images),))
    loader = DataLoader(TensorDataset(images, labels), args.batch)
    module = LongTailed(impl)
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return args.batch * args.steps / (time.perf_counter() - module.start)


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    print(f"{name}: {train(impl):.1f} images/s")
