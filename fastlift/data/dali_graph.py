"""The DALI graph: encoded pictures to normalised views, the same function for CPUs and GPUs.

``device="cpu"`` runs everywhere; ``device="gpu"`` decodes with nvJPEG ("mixed") and resizes on the GPU. Windows and
flips come in as numbers, so nothing in the graph is random.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastlift.data.views import EvalViews, TrainViews


@dataclass(frozen=True)
class GraphSpec:
    """What the graph is built for."""

    views: TrainViews | EvalViews
    mean: tuple[float, ...]  # of pixels in [0, 1]
    std: tuple[float, ...]
    device: Literal["cpu", "gpu"]
    half: bool  # output in fp16 instead of fp32
    from_bytes: bool  # encoded bytes come in (tar shards) instead of paths

    @property
    def resizes_whole(self) -> bool:
        """Views are crops of the resized image (centre, five, ten) rather than windows that are resized."""
        return isinstance(self.views, EvalViews) and self.views.crops != "random"

    @property
    def flips(self) -> bool:
        """Whether any view is ever mirrored; only then flips are fed."""
        return not self.resizes_whole or self.views.views == 10


def build_pipeline(
    spec: GraphSpec,
    source: Callable[[Any], tuple[list[Any], ...]],
    *,
    batch_size: int,
    workers: int,
    device_id: int | None,
    prefetch: int,
) -> Any:
    """A DALI pipeline (not yet built) that calls ``source`` for the inputs of each batch.

    For every sample the source feeds, in this order: the path or the encoded bytes, uint8 [n]; for windows, their x, y
    and their w, h, int32 [2 V] each; for crops of the resized picture, its height and width, int32 [2], and the crops'
    x, y, int32 [2 V]; and flips, int32 [V], where ``spec.flips``.

    Outputs: views [B, 3, S, S] or [B, V, 3, S, S], and the shapes (height, width, channels) that the files' headers
    tell, int64 [B, 3].
    """
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=batch_size, num_threads=workers, device_id=device_id, prefetch_queue_depth=prefetch, seed=0
    )
    with pipeline:
        kinds = [types.UINT8, types.INT32, types.INT32, types.INT32][: 4 if spec.flips else 3]
        first, second, third, *rest = fn.external_source(
            source, num_outputs=len(kinds), batch=True, batch_info=True, dtype=kinds, ndim=1
        )
        flips = rest[0] if rest else None
        encoded = first if spec.from_bytes else fn.io.file.read(first)
        shapes = fn.peek_image_shape(encoded, adjust_orientation=False)
        make = _crops_of_resized if spec.resizes_whole else _resized_windows
        pipeline.set_outputs(_normalised(spec, make(spec, encoded, second, third, flips), flips), shapes)
    return pipeline


def _decoder_options(spec: GraphSpec) -> dict[str, Any]:
    options: dict[str, Any] = {"adjust_orientation": False, "device": "cpu"}  # as Pillow: EXIF rotation is ignored
    if spec.device == "gpu":
        options.update(device="mixed", jpeg_fancy_upsampling=True)  # the chroma upsampling of the CPU's decoder
    return options


def _resized(image: Any, size: Any) -> Any:
    from nvidia.dali import fn, types

    if not isinstance(size, list):
        size = fn.cast(size, dtype=types.FLOAT)  # what the operator takes; exact below 2**24
    return fn.resize(image, size=size, interp_type=types.INTERP_CUBIC, antialias=True)


def _resized_windows(spec: GraphSpec, encoded: Any, starts: Any, sizes: Any, flips: Any) -> Any:
    """Each window resized to S x S: HWC, or VHWC with the flips already made."""
    from nvidia.dali import fn

    target = [spec.views.size, spec.views.size]
    if not spec.views.stacked:  # one window a picture: only its part is decoded
        image = fn.decoders.image_slice(encoded, start=starts, shape=sizes, axis_names="WH", **_decoder_options(spec))
        return _resized(image, target)
    whole = fn.decoders.image(encoded, **_decoder_options(spec))
    cut = [
        fn.slice(whole, start=starts[2 * v : 2 * v + 2], shape=sizes[2 * v : 2 * v + 2], axis_names="WH")
        for v in range(spec.views.views)
    ]
    return fn.stack(*(fn.flip(_resized(part, target), horizontal=flips[v]) for v, part in enumerate(cut)))


def _crops_of_resized(spec: GraphSpec, encoded: Any, size: Any, starts: Any, flips: Any) -> Any:
    """Crops of the whole image resized once: HWC, or VHWC with the flips already made."""
    from nvidia.dali import fn

    resized = _resized(fn.decoders.image(encoded, **_decoder_options(spec)), size)
    target = [spec.views.size, spec.views.size]
    cut = [
        fn.slice(resized, start=starts[2 * v : 2 * v + 2], shape=target, axis_names="WH")
        for v in range(spec.views.views)
    ]
    if not spec.views.stacked:
        return cut[0]
    if spec.flips:
        cut = [fn.flip(part, horizontal=flips[v]) for v, part in enumerate(cut)]
    return fn.stack(*cut)


def _normalised(spec: GraphSpec, pixels: Any, flips: Any) -> Any:
    from nvidia.dali import fn, types

    options: dict[str, Any] = {
        "dtype": types.FLOAT16 if spec.half else types.FLOAT,
        "mean": _times_255(spec.mean),
        "std": _times_255(spec.std),
    }
    if spec.views.stacked:
        return fn.crop_mirror_normalize(fn.reshape(pixels, layout="FHWC"), output_layout="FCHW", **options)
    if spec.flips:
        options["mirror"] = flips[0]
    return fn.crop_mirror_normalize(pixels, output_layout="CHW", **options)


def _times_255(values: Sequence[float]) -> list[float]:
    return [255.0 * value for value in values]
