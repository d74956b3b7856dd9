"""fastlift's adapters and loss with timm's own training utilities: optimizer, learning rate schedule, EMA, meters.

    python examples/timm_train.py --model vit_base_patch16_224.augreg_in21k --size 224 --pretrained

It trains on random images and prints images/s with plain PyTorch and with fastlift's ops.
"""

import argparse
import time

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, accuracy

import fastlift

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="vit_tiny_patch16_224")
parser.add_argument("--pretrained", action="store_true", help="download the weights")
parser.add_argument("--size", type=int, default=64, help="image size in pixels")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()

CLASS_COUNTS = [500, 200, 80, 30, 12, 5]  # training images of each class


def train(impl: str | None) -> tuple[float, float, float]:
    """Train for --steps steps after a warm-up step.

    Return images per second, the mean loss, and the accuracy in % of the EMA model on the batch.
    """
    torch.manual_seed(0)
    model = timm.create_model(args.model, pretrained=args.pretrained, img_size=args.size, num_classes=len(CLASS_COUNTS))

    # Freeze the ViT and add adapters. timm's own classifier is trained as well.
    fastlift.add_adapters(model, rank=16, impl=impl)
    model.head.requires_grad_(True)
    loss_function = fastlift.LogitAdjustedCrossEntropy(CLASS_COUNTS)

    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=2, warmup_epochs=0)
    ema = ModelEmaV3(model, decay=0.9)
    losses = AverageMeter()

    model.train()
    images = torch.randn(args.batch, 3, args.size, args.size)
    labels = torch.arange(args.batch) % len(CLASS_COUNTS)
    for step in range(args.steps + 1):
        if step == 1:  # step 0 is the warm-up
            start = time.perf_counter()
        loss = loss_function(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model)
        losses.update(loss.item(), len(labels))
    speed = args.batch * args.steps / (time.perf_counter() - start)
    scheduler.step(1)  # after each epoch

    with torch.no_grad():
        ema_accuracy = accuracy(ema(images), labels)[0].item()
    return speed, losses.avg, ema_accuracy


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    speed, loss, ema_accuracy = train(impl)
    print(f"{name}: {speed:.1f} images/s, loss {loss:.3f}, EMA accuracy {ema_accuracy:.0f} %")
