"""A plain PyTorch loop around a timm ViT, with fastlift's loader, adapters and fused cosine loss.

    python examples/plain_loop.py --model vit_base_patch16_clip_224.openai --size 224 --pretrained

Without --data it trains on the data set that fastlift draws itself. It prints images/s with plain PyTorch and with fastlift's ops.
"""

import argparse
import time
from itertools import count, islice
from pathlib import Path

import timm
import torch

import fastlift
from fastlift.data import TrainViews, build_loader, load_data_set

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="vit_tiny_patch16_224")
parser.add_argument("--pretrained", action="store_true", help="download the weights")
parser.add_argument("--size", type=int, default=64, help="image size in pixels")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument(
    "--data", type=Path, help="a folder with train.txt, test.txt (lines 'path label') and class_names.txt"
)
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
if args.data is None:
    data = load_data_set("shapes_lt")
else:
    data = load_data_set(
        "list",
        data_root=args.data,
        train_list=args.data / "train.txt",
        test_list=args.data / "test.txt",
        class_names=args.data / "class_names.txt",
    )


def train(impl: str | None) -> tuple[float, float]:
    """Train for --steps steps after a warm-up step. Return images per second, and the last loss."""
    torch.manual_seed(0)
    vit = timm.create_model(args.model, pretrained=args.pretrained, img_size=args.size, num_classes=0)
    loader = build_loader(
        data.train,
        TrainViews(args.size),
        batch_size=args.batch,
        mean=vit.pretrained_cfg["mean"],
        std=vit.pretrained_cfg["std"],
        device=device,
    )

    # Freeze the ViT and add adapters. The classifier and its loss are one module.
    adapters = fastlift.add_adapters(vit, rank=16, impl=impl)
    head = fastlift.FusedCosineLoss(vit.num_features, data.train.class_counts(), impl=impl)
    vit.to(device).train()
    head.to(device)
    optimizer = torch.optim.SGD([*adapters.values(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4)

    batches = (batch for epoch in count() for batch in loader.epoch(epoch))
    start, images_seen = 0.0, 0
    for step, (images, labels, _) in enumerate(islice(batches, args.steps + 1)):
        loss = head(vit(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:  # the warm-up step
            start = time.perf_counter()
        else:
            images_seen += len(labels)
    last_loss = loss.item()  # on a GPU, this waits for the last step
    speed = images_seen / (time.perf_counter() - start)
    loader.close()
    return speed, last_loss


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    speed, loss = train(impl)
    print(f"{name}: {speed:.1f} images/s, loss {loss:.3f}")
