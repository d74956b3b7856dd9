"""Exported files: read in a process without fastlift, equal to the model, described well enough to prepare images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import CLASS_NAMES
from interop.export.test_serving import trained_model

import fastlift
from fastlift.interop.export import FORMATS, export_model, places
from fastlift.interop.export import files as export_files
from fastlift.interop.export.formats import KINDS, format_of

# Serves an image from the file and its description alone; an import of fastlift in any form is an error.
SERVE = """
import json, sys
class Never:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fastlift", "fastlift_kernels", "kernels", "open_clip", "timm"):
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Never())
import numpy as np
from PIL import Image
described = json.load(open(sys.argv[1]))
p = described["preprocessing"]
image = Image.open(sys.argv[3]).convert("RGB")
short = min(image.size)
width, height = (side * p["short_side"] // short for side in image.size)
kind, antialiased = p["interpolation"].split(", ")
pixels = np.asarray(image.resize((width, height), getattr(Image, kind.upper())))
size = p["size"]
crops = []
for left, top in p["crops"]:
    x, y = (eval(edge, {"width": width, "height": height, "size": size, "round": round}) for edge in (left, top))
    crops.append(pixels[y:y + size, x:x + size])
images = (np.stack(crops) / 255 - np.array(p["mean"])) / np.array(p["std"])
images = images.transpose(0, 3, 1, 2).astype(np.float32)
images = images[None] if len(crops) > 1 else images
if described["kind"].startswith("onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": images})[0][0]
else:
    import torch
    load = {
        "pt2": lambda file: torch.export.load(file).module(),
        "aoti": lambda file: (lambda images: torch._inductor.aoti_load_package(file)(images.contiguous())),
        "torchscript": torch.jit.load,
    }[described["kind"]]
    logits = load(sys.argv[2])(torch.from_numpy(images))[0].detach().numpy()
assert not [name for name in sys.modules if name.startswith("fastlift")]
np.savez(sys.argv[4], images=images, logits=logits)
"""


def inside(model: Path, kind: str) -> dict[str, Any]:
    """The description that an exported file holds itself."""
    texts = {"fastlift.json": ""}
    if kind.startswith("onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        return json.loads(session.get_modelmeta().custom_metadata_map["fastlift"])
    if kind == "aoti":
        return json.loads(torch._inductor.aoti_load_package(str(model)).get_metadata()["fastlift"])
    if kind == "torchscript":
        torch.jit.load(str(model), _extra_files=texts)
    else:
        torch.export.load(str(model), extra_files=texts)
    return json.loads(texts["fastlift.json"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize(
    ("format", "ensembling", "tuner"),
    [
        ("onnx", "fivecrop", ("adaptformer", "ssf_ln")),
        ("onnx-fp16", "none", "lora"),
        ("onnx-int8", "none", "adapter"),
        ("pt2", "none", "mask"),
        ("aoti", "fivecrop", "adaptformer"),
        ("torchscript", "none", ("adaptformer", "vpt_deep")),
    ],
)
def test_served_without_fastlift(
    tiny_clip: tuple[Path, Path], tiny_data: Path, tmp_path: Path, format: Any, ensembling: Any, tuner: Any
) -> None:
    for package in ("onnxscript", "onnxruntime") if format.startswith("onnx") else ():
        pytest.importorskip(package)
    if format == "aoti" and not shutil.which("g++"):
        pytest.skip("AOTInductor needs a C++ compiler")
    interpolation = "bilinear" if format == "onnx" else "bicubic"
    model = trained_model(tiny_clip, tuner, interpolation=interpolation)
    path = places([format], tmp_path, ensembling)[format]
    done = export_model(model, path, format=format, ensembling=ensembling)
    is_rounded = format in ("onnx-fp16", "onnx-int8")
    assert is_rounded == (done.difference > 1e-4), "int8 and fp16 round, and the others do not"
    image, out = tiny_data / "test" / "class1" / "0.jpg", tmp_path / "out.npz"
    arguments = [str(path) for path in (done.description, done.model, image, out)]
    served = subprocess.run([sys.executable, "-c", SERVE, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert served.returncode == 0, served.stderr
    found = np.load(out)
    images = torch.from_numpy(found["images"])
    wanted = model(images) if ensembling == "none" else model(images[0]).mean(dim=0, keepdim=True)
    np.testing.assert_allclose(found["logits"], wanted[0].detach().numpy(), rtol=0, atol=1 if is_rounded else 1e-4)
    # and the description leads to the crops that fastlift itself looks at, but for the decoder's rounding
    best = model.predict(image, top=len(CLASS_NAMES), tte=ensembling)
    ours = dict(zip(best.names, best.probabilities, strict=True))
    probabilities = torch.from_numpy(found["logits"]).softmax(0).tolist()
    described = json.loads(done.description.read_text())
    assert described == inside(done.model, format) | {"largest_difference": done.difference}
    assert described["classes"] == list(model.class_names)
    assert described["preprocessing"]["interpolation"] == f"{interpolation}, antialiased"
    for name, probability in zip(described["classes"], probabilities, strict=True):
        assert abs(ours[name] - probability) < (0.2 if is_rounded else 0.02)


# Images in a layout that the compiled code does not look for, as the file's own description says to load it, and without that.
LAYOUTS = """
import sys, torch
torch.manual_seed(0)
images = torch.randn(3, 3, 32, 32).to(memory_format=torch.channels_last)
FILE = sys.argv[1]
torch.save(eval(sys.argv[2]), sys.argv[3])
try:
    torch._inductor.aoti_load_package(FILE)(images)
except RuntimeError as error:
    print("refused:", error)
"""


def test_compiled_code_and_images_in_other_layouts(tiny_clip: tuple[Path, Path], tmp_path: Path) -> None:
    """Of a model in that layout too: without a copy its logits were wrong, and nobody told."""
    if not shutil.which("g++"):
        pytest.skip("AOTInductor needs a C++ compiler")
    model = trained_model(tiny_clip, "adaptformer").to(memory_format=torch.channels_last)
    done = export_model(model, tmp_path / "model.pt2", format="aoti")
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32).to(memory_format=torch.channels_last)
    wanted, served = model(images).detach(), KINDS["aoti"].open(done.model, 1)
    torch.testing.assert_close(served(images), wanted, rtol=0, atol=1e-4)
    twice = torch.cat([images, images])[::2]
    torch.testing.assert_close(served(twice), model(twice).detach(), rtol=0, atol=1e-4)
    load = json.loads(done.description.read_text())["load"].partition(";")[0]
    arguments = [str(done.model), load, str(tmp_path / "out.pt")]
    checks = os.environ | {"AOTI_RUNTIME_CHECK_INPUTS": "1"}
    run = subprocess.run([sys.executable, "-c", LAYOUTS, *arguments], env=checks, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("refused:"), "docs/exporting.md says that this variable has them refused"
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), wanted, rtol=0, atol=1e-4)


def test_a_batch_of_any_size_is_called_batch(tiny_clip: tuple[Path, Path], tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, images = trained_model(tiny_clip, "adaptformer"), torch.randn(7, 3, 32, 32)
    for opset in (18, 21):
        path = tmp_path / f"{opset}.onnx"
        export_model(model, path, opset=opset)
        read = onnx.load(path)
        assert {one.domain: one.version for one in read.opset_import}[""] == opset
        assert json.loads((tmp_path / f"{opset}.onnx.json").read_text())["opset"] == opset
        for value in (*read.graph.input, *read.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for batch in (1, 7):
            got = session.run(["logits"], {"images": images[:batch].numpy()})[0]
            np.testing.assert_allclose(got, model(images[:batch]).detach(), rtol=0, atol=1e-4)


def test_names_of_files(tmp_path: Path) -> None:
    all_of_them = places(FORMATS, tmp_path / "new", "fivecrop")
    assert len(set(all_of_them.values())) == len(FORMATS)
    assert all_of_them["onnx-int8"] == tmp_path / "new" / "model-fivecrop-int8.onnx"
    for format, path in all_of_them.items():
        assert format_of(path) == format
    assert places(["aoti"], tmp_path / "mine.pt2", "none") == {"aoti": tmp_path / "mine.pt2"}
    with pytest.raises(fastlift.UserError, match="of a file of the format onnx-fp16, not pt2"):
        places(["pt2"], tmp_path / "my-fp16.onnx", "none")
    with pytest.raises(fastlift.UserError, match="names one file, and there are 2 formats: name a folder"):
        places(["pt2", "onnx"], tmp_path / "mine.onnx", "none")


def test_formats_that_there_are_not(tiny_clip: tuple[Path, Path], tmp_path: Path) -> None:
    model = trained_model(tiny_clip, "none")
    for word, message in (
        (
            "tochscript",
            r"unknown format 'tochscript'; did you mean torchscript\? \(known: onnx, onnx-fp16, .*torchscript\)$",
        ),
        (3, "unknown format '3'; known: onnx, onnx-fp16"),
    ):
        with pytest.raises(fastlift.UserError, match=message):
            export_model(model, tmp_path / "model", format=word)  # type: ignore[arg-type]
    with pytest.raises(fastlift.UserError, match="value of ensembling 'tencrop'; did you mean fivecrop"):
        export_model(model, tmp_path / "model", ensembling="tencrop")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlift.interop.export.formats.find_spec", lambda name: None)
    with pytest.raises(
        fastlift.UserError, match=r"export to onnx needs onnx, onnxscript, onnxruntime: pip install 'fastlift\[onnx\]'"
    ):
        export_model(trained_model(tiny_clip, "none"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def serves(value: float) -> Any:
    """What ``torch.export.load`` gives of a file whose logits are all the same number."""
    return SimpleNamespace(module=lambda: lambda images: torch.full((len(images), 6), value))


def test_a_file_that_computes_something_else_is_not_left(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda file: serves(0.0))
    model = trained_model(tiny_clip, "none")
    with pytest.raises(fastlift.UserError, match="other logits than the model"):
        export_model(model, tmp_path / "model.pt2", format="pt2")
    assert not list(tmp_path.iterdir())
    for name in ("model.pt2", "model.pt2.json"):
        (tmp_path / name).write_text("old")
    with pytest.raises(fastlift.UserError, match="other logits than the model"):
        export_model(model, tmp_path / "model.pt2", format="pt2", overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old", "old"]


def test_a_kill_between_the_two_files_leaves_a_model_that_describes_itself(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "model.pt2.json").write_text("of an old model")
    monkeypatch.setattr(export_files, "write_json", killed)
    model = trained_model(tiny_clip, "none")
    with pytest.raises(KeyboardInterrupt):
        export_model(model, tmp_path / "model.pt2", format="pt2", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert inside(tmp_path / "model.pt2", "pt2")["classes"] == list(CLASS_NAMES)


def test_models_and_files_with_nan_are_refused(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max() of Python passes over NaN, which made its difference 0."""
    model = trained_model(tiny_clip, "none")
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "load", lambda file: serves(torch.nan))
        with pytest.raises(fastlift.UserError, match="differ by nan"):
            export_model(model, tmp_path / "model.pt2", format="pt2")
    with torch.no_grad():
        model.classifier.weight[0] = torch.nan  # type: ignore[index, operator]
    with pytest.raises(fastlift.UserError, match="logits are NaN or infinite"):
        export_model(model, tmp_path / "model.pt2", format="pt2")
    assert not list(tmp_path.iterdir())
