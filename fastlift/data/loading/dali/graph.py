"""The DALI graph: encoded images to normalised crops, the same function for GPUs and, in tests, CPUs.

``device="gpu"`` decodes with nvJPEG ("mixed") and resizes on the GPU; ``device="cpu"`` runs everywhere. Crop boxes and
flips come in as numbers, so nothing in the graph is random.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastlift.data.sampling.crops import EvalCrops, TrainCrops


@dataclass(frozen=True)
class DaliDecoding:
    """Who decodes what of the images that DALI could.

    host_share: share of the images that our threads make; hw_load: of DALI's own part, that of a GPU's hardware decoder.
    """

    host_share: float = 0.0
    hw_load: float = 0.65  # DALI's default


@dataclass(frozen=True)
class GraphSpec:
    """What the graph is built for."""

    crops: TrainCrops | EvalCrops
    mean: tuple[float, ...]  # of pixels in [0, 1]
    std: tuple[float, ...]
    device: Literal["cpu", "gpu"]
    half: bool  # output in fp16 instead of fp32
    decoding: DaliDecoding = DaliDecoding()

    @property
    def resizes_whole(self) -> bool:
        """Crops are cut from the resized image (centre, five, ten) rather than resized from boxes."""
        return isinstance(self.crops, EvalCrops) and self.crops.crops != "random"

    @property
    def decodes_boxes(self) -> bool:
        """An image has one box: only its part is decoded."""
        return not self.resizes_whole and not self.crops.stacked

    @property
    def flips(self) -> bool:
        """Whether any crop is ever mirrored."""
        return not self.resizes_whole or self.crops.per_image == 10

    @property
    def columns(self) -> int:
        """How many columns of numbers are fed beside the images: see ``build_pipeline``."""
        return 3 if self.flips else 2


def build_pipeline(
    spec: GraphSpec,
    source: Callable[[Any], tuple[Any, ...]],
    *,
    batch_size: int,
    workers: int,
    device_id: int | None,
    prefetch: int,
) -> Any:
    """A DALI pipeline (not yet built) that calls ``source`` for the inputs of each batch.

    For every sample the source feeds, in this order: the encoded bytes, uint8 [n], then the first
    ``spec.columns`` of: for boxes, their x, y and their w, h, int32 [2 V] each; for crops of the resized image, its
    height and width, int32 [2], and the crops' x, y, int32 [2 V]; and flips, int32 [V]. It feeds a list of the batch each, which
    has to stay as it is until the batch is put out.

    Output: crops [B, 3, S, S] or [B, V, 3, S, S], normalised, fp32 or fp16.
    """
    from nvidia.dali import Pipeline, fn, types

    # The dynamic executor: outputs belong to whoever holds them, however many batches follow.
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=workers,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        seed=0,
        exec_dynamic=True,
    )
    with pipeline:
        kinds = [types.UINT8, *[types.INT32] * spec.columns]
        # Without a copy: DALI makes it holding Python's lock, 13 ms for 512 images.
        encoded, *columns = fn.external_source(
            source, num_outputs=len(kinds), batch=True, batch_info=True, dtype=kinds, ndim=1, no_copy=True
        )
        pipeline.set_outputs(_crops(spec, encoded, columns))
    return pipeline


def _decoded(spec: GraphSpec, encoded: Any, columns: Sequence[Any]) -> Any:
    """The pixels that the crops are made of, HWC: the box alone where there is one."""
    from nvidia.dali import fn

    options: dict[str, Any] = {"adjust_orientation": False, "device": "cpu"}  # as Pillow: EXIF rotation is ignored
    if spec.device == "gpu":
        options.update(device="mixed", hw_decoder_load=spec.decoding.hw_load)
        options["jpeg_fancy_upsampling"] = True  # the chroma upsampling of the CPU's decoder
    if not spec.decodes_boxes:
        return fn.decoders.image(encoded, **options)
    starts, sizes = columns[:2]
    return fn.decoders.image_slice(encoded, start=starts, shape=sizes, axis_names="WH", **options)


def _crops(spec: GraphSpec, encoded: Any, columns: Sequence[Any]) -> Any:
    """Resized, mirrored and normalised crops."""
    from nvidia.dali import fn

    first, second, flips = (*columns, None)[:3]
    pixels = _decoded(spec, encoded, columns)
    side = [spec.crops.size, spec.crops.size]
    pairs = [slice(2 * v, 2 * v + 2) for v in range(spec.crops.per_image)]  # of each crop, in the columns
    if spec.resizes_whole:
        whole = _resized(spec, pixels, first)
        crops = [fn.slice(whole, start=second[pair], shape=side, axis_names="WH") for pair in pairs]
    elif spec.decodes_boxes:
        crops = [_resized(spec, pixels, side)]
    else:
        parts = [fn.slice(pixels, start=first[pair], shape=second[pair], axis_names="WH") for pair in pairs]
        crops = [_resized(spec, part, side) for part in parts]
    if not spec.crops.stacked:
        return _normalised(spec, crops[0], flips)
    if spec.flips:
        crops = [fn.flip(crop, horizontal=flips[v]) for v, crop in enumerate(crops)]
    return _normalised(spec, fn.stack(*crops), flips)


def _resized(spec: GraphSpec, image: Any, size: Any) -> Any:
    from nvidia.dali import fn, types

    if not isinstance(size, list):
        size = fn.cast(size, dtype=types.FLOAT)  # what the operator takes; exact below 2**24
    kind = types.INTERP_CUBIC if spec.crops.interpolation == "bicubic" else types.INTERP_LINEAR
    return fn.resize(image, size=size, interp_type=kind, antialias=True)


def _normalised(spec: GraphSpec, pixels: Any, flips: Any) -> Any:
    """From HWC; or from VHWC, where the flips are already made."""
    from nvidia.dali import fn, types

    mean, std = ([255.0 * value for value in values] for values in (spec.mean, spec.std))
    options: dict[str, Any] = {"dtype": types.FLOAT16 if spec.half else types.FLOAT, "mean": mean, "std": std}
    if spec.crops.stacked:
        return fn.crop_mirror_normalize(fn.reshape(pixels, layout="FHWC"), output_layout="FCHW", **options)
    if spec.flips:
        options["mirror"] = flips[0]
    return fn.crop_mirror_normalize(pixels, output_layout="CHW", **options)
