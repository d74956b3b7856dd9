"""fastlift's adapters and loss with timm's own training utilities: optimizer, schedule, loss scaler, EMA, meters.

    python examples/timm_train.py --model vit_base_patch16_224.augreg_in21k --size 224 --pretrained

Prints images/s with plain PyTorch and with fastlift's ops.
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
parser.add_argument("--size", type=int, default=64)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()
COUNTS = [500, 200, 80, 30, 12, 5]


def train(impl: str | None) -> tuple[float, float, float]:
    """Images per second, mean loss, and the accuracy of the moving average of the weights on the last batch."""
    torch.manual_seed(0)
    model = timm.create_model(args.model, pretrained=args.pretrained, img_size=args.size, num_classes=len(COUNTS))
    fastlift.add_adapters(model, rank=16, impl=impl)
    model.head.requires_grad_(True)
    loss_function = fastlift.LogitAdjustedCrossEntropy(COUNTS)
    optimiser = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule, _ = create_scheduler_v2(optimiser, sched="cosine", num_epochs=2, warmup_epochs=0)
    average, losses = ModelEmaV3(model, decay=0.9), AverageMeter()
    model.train()
    images = torch.randn(args.batch, 3, args.size, args.size)
    labels = torch.arange(args.batch) % len(COUNTS)
    for step in range(args.steps + 1):
        if step == 1:  # the first step warms up
            start = time.perf_counter()
        loss = loss_function(model(images), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update(model)
        losses.update(loss.item(), len(labels))
    schedule.step(1)
    speed = args.batch * args.steps / (time.perf_counter() - start)
    with torch.no_grad():
        return speed, losses.avg, accuracy(average(images), labels)[0].item()


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    print("{}: {:.1f} images/s, loss {:.3f}, moving average {:.0f} % right".format(name, *train(impl)))
