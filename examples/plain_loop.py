"""A plain PyTorch loop around a timm ViT, with fastlift's loader, adapters and fused cosine loss.

    python examples/plain_loop.py --model vit_base_patch16_clip_224.openai --size 224 --pretrained

Without --data it trains on the set that fastlift draws itself. Prints images/s with plain PyTorch and with fastlift's ops.
"""

import argparse
import time

import timm
import torch

import fastlift
from fastlift.data import TrainViews, build_loader, load_data_set

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="vit_tiny_patch16_224")
parser.add_argument("--pretrained", action="store_true", help="download the weights")
parser.add_argument("--size", type=int, default=64)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--data", help="a folder with train.txt, test.txt (lines of 'path label') and class_names.txt")
args = parser.parse_args()


def train(impl: str | None) -> tuple[float, float]:
    """Images per second, and the last loss."""
    if args.data:
        lists = {
            name: f"{args.data}/{name.split('_list')[0]}.txt" for name in ("train_list", "test_list", "class_names")
        }
        data = load_data_set("list", data_root=args.data, **lists)
    else:
        data = load_data_set("shapes_lt")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = timm.create_model(args.model, pretrained=args.pretrained, img_size=args.size, num_classes=0)
    norm = {name: model.pretrained_cfg[name] for name in ("mean", "std")}
    loader = build_loader(data.train, TrainViews(args.size), batch_size=args.batch, device=device, **norm)
    adapters = fastlift.add_adapters(model, rank=16, impl=impl)
    head = fastlift.FusedCosineLoss(model.num_features, data.train.class_counts(), impl=impl)
    model.to(device).train(), head.to(device)
    optimiser = torch.optim.SGD([*adapters.values(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4)
    start, seen, step = 0.0, 0, 0
    while step <= args.steps:
        for images, labels, _ in loader.epoch(step):
            if step == 1:  # the first step warms up
                start, seen = time.perf_counter(), 0
            loss = head(model(images), labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            step, seen = step + 1, seen + len(labels)
    loader.close()
    return seen / (time.perf_counter() - start), loss.item()


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    print("{}: {:.1f} images/s, loss {:.3f}".format(name, *train(impl)))
