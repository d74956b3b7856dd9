"""A vision transformer at another image size than its own: the same weights, positions for another grid of patches."""

from __future__ import annotations

from torch import Tensor, nn

from fastlift.models.pooling import ClassTokenPool
from fastlift.models.resnet import ResNet
from fastlift.models.tuners.prompts import Prompt
from fastlift.models.vit import Rotary, VisionTransformer


class Resizer:
    """Makes a backbone take images of other sizes, and of its own again. Nothing that trains depends on the size.

    Learned positions are interpolated once a size, bicubic with antialiasing, as timm and open_clip do for
    ``--image-size``; those of class token and registers stay. Rotary angles are computed for the grid. The range of tokens
    that a pool averages, and the place of visual prompts, follow. Weights are neither copied nor changed: positions are in
    the compute dtype, and those of the own size are kept.

    Args:
        vit: at its own size. A ResNet has no other.
    """

    def __init__(self, vit: VisionTransformer | ResNet) -> None:
        self._vit = vit
        self._own = vit.image_size
        self._positions = vit.positions if isinstance(vit, VisionTransformer) else None

    @property
    def side(self) -> int:
        """Of the images that it takes now, in pixels."""
        return self._vit.image_size[0]

    def resize(self, side: int) -> None:
        """Take square images of ``side`` pixels from now on."""
        vit = self._vit
        if (side, side) == vit.image_size:
            return
        if isinstance(vit, ResNet):
            raise ValueError("a ResNet takes images of its own size alone")
        before, vit.image_size = vit.grid, (side, side)
        if self._positions is not None:
            vit.positions = self._positions if vit.image_size == self._own else self._interpolated(vit.grid)
        for rotary in (module for module in vit.modules() if isinstance(module, Rotary)):
            device = rotary.sin.device
            rotary.sin, rotary.cos = (angle.to(device) for angle in rotary.angles(vit.grid))
        if not isinstance(vit.pool, ClassTokenPool):
            vit.pool.count += vit.grid[0] * vit.grid[1] - before[0] * before[1]
        for prompt in (module for module in vit.modules() if isinstance(module, Prompt)):
            prompt.site = vit.prompt_site()

    def restore(self) -> None:
        """Take images of its own size again, by its own positions."""
        self.resize(self._own[0])

    def _interpolated(self, grid: tuple[int, int]) -> nn.Parameter:
        """Positions of a grid, from those of the own one."""
        from timm.layers import resample_abs_pos_embed

        vit, positions = self._vit, self._positions
        assert isinstance(vit, VisionTransformer)
        assert positions is not None
        height, width = (size // step for size, step in zip(self._own, vit.patches.stride, strict=True))
        options = {"old_size": [height, width], "num_prefix_tokens": len(positions) - height * width}
        made: Tensor = resample_abs_pos_embed(positions.detach()[None], list(grid), **options)[0]
        return nn.Parameter(made.contiguous(), requires_grad=False)
