"""fastlift's adapters and fused loss in an accelerate loop around an open_clip model, with gradient accumulation.

    accelerate launch examples/accelerate_loop.py --model ViT-B-16-quickgelu --batch 32

Prints images/s with plain PyTorch and with fastlift's ops; the adapters of the last run are saved where --save says.
"""

import argparse
import time

import open_clip
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import fastlift

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="an open_clip model; default: a small one with random weights")
parser.add_argument("--pretrained", help="an open_clip tag, which is downloaded, or a weights file")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--save", help="folder for the adapters")
args = parser.parse_args()
COUNTS = [500, 200, 80, 30, 12, 5]
VISION = {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}


def train(impl: str | None) -> tuple[float, float]:
    """Images per second, and the last loss."""
    torch.manual_seed(0)
    if args.model:
        vit = open_clip.create_model(args.model, pretrained=args.pretrained).visual
    else:
        vit = open_clip.CLIP(embed_dim=128, vision_cfg=VISION, text_cfg=TEXT, quick_gelu=True).visual
    adapters = fastlift.add_adapters(vit, rank=16, impl=impl)
    head = fastlift.FusedCosineLoss(vit.output_dim, COUNTS, impl=impl)
    images = torch.randn(args.batch * (args.steps + 1), 3, *vit.image_size)
    labels = torch.arange(len(images)) % len(COUNTS)
    loader = DataLoader(TensorDataset(images, labels), args.batch)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    optimiser = torch.optim.SGD([*adapters.values(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4)
    vit, head, optimiser, loader = accelerator.prepare(vit, head, optimiser, loader)
    for step, (batch, targets) in enumerate(loader):
        if step == 1:  # the first step warms up
            start = time.perf_counter()
        with accelerator.accumulate(vit, head):
            loss = head(vit(batch), targets)
            accelerator.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
    speed = args.batch * args.steps / (time.perf_counter() - start)
    if args.save and accelerator.is_main_process:
        fastlift.save_adapters(accelerator.unwrap_model(vit), args.save)
    return speed, loss.item()


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    print("{}: {:.1f} images/s, loss {:.3f}".format(name, *train(impl)))
