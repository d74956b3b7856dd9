"""fastlift's adapters and fused loss in an accelerate loop around an open_clip model, with gradient accumulation.

    accelerate launch examples/accelerate_loop.py --model ViT-B-16-quickgelu --pretrained openai --batch 32

It trains on random images and prints images/s with plain PyTorch and with fastlift's ops. --save stores the adapters of the last run.
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

CLASS_COUNTS = [500, 200, 80, 30, 12, 5]  # training images of each class
SMALL_VISION = {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 16}
SMALL_TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}


def create_vit() -> torch.nn.Module:
    """The vision tower of an open_clip model."""
    if args.model is None:
        clip = open_clip.CLIP(embed_dim=128, vision_cfg=SMALL_VISION, text_cfg=SMALL_TEXT, quick_gelu=True)
    else:
        clip = open_clip.create_model(args.model, pretrained=args.pretrained)
    return clip.visual


def train(impl: str | None) -> tuple[float, float]:
    """Train for --steps steps after a warm-up step. Return images per second, and the last loss."""
    torch.manual_seed(0)
    vit = create_vit()

    # Freeze the ViT and add adapters. The classifier and its loss are one module.
    adapters = fastlift.add_adapters(vit, rank=16, impl=impl)
    head = fastlift.FusedCosineLoss(vit.output_dim, CLASS_COUNTS, impl=impl)
    optimizer = torch.optim.SGD([*adapters.values(), *head.parameters()], lr=0.01, momentum=0.9, weight_decay=5e-4)

    images = torch.randn(args.batch * (args.steps + 1), 3, *vit.image_size)
    labels = torch.arange(len(images)) % len(CLASS_COUNTS)
    loader = DataLoader(TensorDataset(images, labels), args.batch)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    vit, head, optimizer, loader = accelerator.prepare(vit, head, optimizer, loader)

    for step, (batch, targets) in enumerate(loader):
        if step == 1:  # step 0 is the warm-up
            start = time.perf_counter()
        with accelerator.accumulate(vit, head):
            loss = head(vit(batch), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    last_loss = loss.item()  # on a GPU, this waits for the last step
    speed = args.batch * args.steps / (time.perf_counter() - start)

    if args.save and accelerator.is_main_process:
        fastlift.save_adapters(accelerator.unwrap_model(vit), args.save)
    return speed, last_loss


for name, impl in (("plain PyTorch", "reference"), ("fastlift", None)):
    speed, loss = train(impl)
    print(f"{name}: {speed:.1f} images/s, loss {loss:.3f}")
