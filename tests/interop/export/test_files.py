"""Exported files: read in a process without fastlift, equal to the model, described well enough to prepare images."""

import json
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
from fastlift.commands import export as command
from fastlift.evaluation.predict import index_images, predict
from fastlift.evaluation.settings import InferenceSettings
from fastlift.interop.export import export_model
from fastlift.interop.export import files as export_files

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
if described["kind"] == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": images})[0][0]
else:
    import torch
    logits = torch.export.load(sys.argv[2]).module()(torch.from_numpy(images))[0].detach().numpy()
assert not [name for name in sys.modules if name.startswith("fastlift")]
np.savez(sys.argv[4], images=images, logits=logits)
"""


def inside(model: Path) -> dict[str, Any]:
    """The description that an exported file holds itself."""
    if model.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        return json.loads(session.get_modelmeta().custom_metadata_map["fastlift"])
    texts = {"fastlift.json": ""}
    torch.export.load(str(model), extra_files=texts)
    return json.loads(texts["fastlift.json"])


@pytest.mark.parametrize(
    ("format", "ensembling", "tuner"),
    [
        ("onnx", "fivecrop", ("adaptformer", "ssf_ln")),
        ("pt2", "none", "mask"),
    ],
)
def test_served_without_fastlift(
    tiny_clip: tuple[Path, Path], tiny_data: Path, tmp_path: Path, format: Any, ensembling: Any, tuner: Any
) -> None:
    for package in ("onnxscript", "onnxruntime") if format == "onnx" else ():
        pytest.importorskip(package)
    interpolation = "bilinear" if format == "onnx" else "bicubic"
    model = trained_model(tiny_clip, tuner, interpolation=interpolation)
    done = export_model(model, tmp_path / f"model.{format}", format=format, ensembling=ensembling)
    assert done.difference <= 1e-4
    image, out = tiny_data / "test" / "class1" / "0.jpg", tmp_path / "out.npz"
    arguments = [str(path) for path in (done.description, done.model, image, out)]
    served = subprocess.run([sys.executable, "-c", SERVE, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert served.returncode == 0, served.stderr
    found = np.load(out)
    images = torch.from_numpy(found["images"])
    wanted = model(images) if ensembling == "none" else model(images[0]).mean(dim=0, keepdim=True)
    np.testing.assert_allclose(found["logits"], wanted[0].detach().numpy(), rtol=0, atol=1e-4)
    # and the description leads to the crops that fastlift itself looks at, but for the decoder's rounding
    index, _ = index_images([image])
    best = next(predict(model, [image], index, InferenceSettings(tte=ensembling), top=len(CLASS_NAMES)))
    ours = dict(zip(best.names, best.probabilities, strict=True))
    probabilities = torch.from_numpy(found["logits"]).softmax(0).tolist()
    described = json.loads(done.description.read_text())
    assert described == inside(done.model) | {"largest_difference": done.difference}
    assert described["classes"] == list(model.class_names)
    assert described["preprocessing"]["interpolation"] == f"{interpolation}, antialiased"
    for name, probability in zip(described["classes"], probabilities, strict=True):
        assert abs(ours[name] - probability) < 0.02


def test_command(tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    model = trained_model(tiny_clip, "adaptformer")
    monkeypatch.setattr("fastlift.engine.model.load_run", lambda *arguments: model)
    assert command.run([str(tmp_path), "--format", "pt2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert Path(printed["model"]) == tmp_path / "export" / "pt2" / "model.pt2"
    assert json.loads(Path(printed["description"]).read_text())["input"]["shape"] == ["batch", 3, 32, 32]
    with pytest.raises(fastlift.UserError, match="exist already; use --overwrite"):
        command.run([str(tmp_path), "--format", "pt2"])
    with pytest.raises(fastlift.UserError, match="is a folder: name a file"):
        command.run([str(tmp_path), "--format", "pt2", "--output", str(tmp_path)])


def test_missing_packages_are_named(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        fastlift.UserError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'fastlift\[onnx\]'"
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
    for name in ("model.pt2", "model.json"):
        (tmp_path / name).write_text("old")
    with pytest.raises(fastlift.UserError, match="other logits than the model"):
        export_model(model, tmp_path / "model.pt2", format="pt2", overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old", "old"]


def test_a_kill_between_the_two_files_leaves_a_model_that_describes_itself(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "model.json").write_text("of an old model")
    monkeypatch.setattr(export_files, "write_json", killed)
    model = trained_model(tiny_clip, "none")
    with pytest.raises(KeyboardInterrupt):
        export_model(model, tmp_path / "model.pt2", format="pt2", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert inside(tmp_path / "model.pt2")["classes"] == list(CLASS_NAMES)


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
