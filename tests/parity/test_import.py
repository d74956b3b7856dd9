"""The authors' checkpoints of both programs become run folders; what does not fit is named.

Files of LIFT+ are written here under its names, as its modules and parameter dictionaries produce them.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fixtures import CLASS_NAMES, Files
from safetensors.torch import load_file, save_file
from torch import Tensor

import fastlift
from fastlift import cli
from fastlift.interop import lift_checkpoints as compat
from fastlift.models.lift import LiftModel

D, RANK, CLASSES = 48, 3, len(CLASS_NAMES)
PARTS = {"attn_in": 144, "attn_out": 48, "mlp_in": 192, "mlp_out": 48}  # outputs of a block's products


def build(tiny_clip: Files, **settings: Any) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, **settings)


def bottleneck(prefix: str, width: int = D, rank: int = RANK) -> dict[str, Tensor]:
    shapes = {"norm": (width, width), "down": ((rank, width), rank), "up": ((width, rank), width)}
    return {
        f"{prefix}.{part}.{kind}": torch.randn(shape)
        for part, pair in shapes.items()
        for kind, shape in zip(("weight", "bias"), pair, strict=True)
    }


def lift_plus(method: str) -> dict[str, Tensor]:
    """A checkpoint's ``tuner`` state as LIFT+ names it, with a cosine classifier but for the text-side methods."""
    state: dict[str, Tensor] = {"classifier.weight": torch.randn(CLASSES, D)}
    for i in range(3):
        block = f"image_encoder.blocks.{i}"
        if method in ("adaptformer", "adapter"):
            state |= bottleneck(f"{block}.{method}")
        if method == "adaptformer":
            state[f"{block}.adaptformer.scale"] = torch.randn(())
        if method == "lora":
            for site in ("q", "v"):
                state[f"{block}.lora.{site}.down"] = torch.randn(D, RANK)
                state[f"{block}.lora.{site}.up"] = torch.randn(RANK, D)
        if method == "prompt":
            state[f"{block}.prompt"] = torch.randn(5, D)
        if method == "ssf":
            for part, width in PARTS.items():
                state |= {f"{block}.ssf.{part}.{kind}": torch.randn(width) for kind in ("scale", "shift")}
        if method in ("bitfit", "fft"):
            for part, width in (PARTS | {"norm1": D, "norm2": D}).items():
                state[f"{block}.{part}_bias"] = torch.randn(width)
                if method == "fft":
                    inputs = {"mlp_out": 192}.get(part, D)
                    shape = (width,) if part.startswith("norm") else (width, inputs)
                    state[f"{block}.{part}_weight"] = torch.randn(shape)
    if method == "text":
        del state["classifier.weight"]
        state |= {
            "text_encoder.ctx": torch.randn(4, 16),
            "image_proj": torch.randn(D, 24),
            "text_proj": torch.randn(16, 24),
        }
        state |= bottleneck("image_adapter", 24, 2) | bottleneck("text_adapter", 24, 2)
        for i in range(2):
            for site in ("q", "v"):
                state[f"text_encoder.blocks.{i}.lora.{site}.down"] = torch.randn(16, RANK)
                state[f"text_encoder.blocks.{i}.lora.{site}.up"] = torch.randn(RANK, 16)
    return state


METHODS = {
    "none": ("none",),
    "adaptformer": ("adaptformer",),
    "adapter": ("adapter",),
    "lora": ("lora",),
    "prompt": ("vpt_deep",),
    "ssf": ("ssf_attn", "ssf_mlp"),
    "bitfit": ("bias",),
    "fft": ("full",),
    "text": ("none",),
}


def second_version(name: str) -> str:
    """A name of LIFT+'s first version in its second, where attention and MLP are modules of a block."""
    parts = name.split(".")
    if "lora" in parts or "adapter" in parts:
        parts.insert(3, "attn" if "lora" in parts else "mlp")
    elif "ssf" in parts or "aft" in parts:
        module, _, side = parts[4].partition("_")
        parts[3:5] = [module, parts[3], f"{side}_proj"]
    elif parts[-1].startswith(("attn_", "mlp_")):
        module, side, kind = parts[-1].split("_")
        parts[-1] = f"{module}_{side}_proj_{kind}"
    return ".".join(parts)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("image_encoder.blocks.1.lora.q.down", "image_encoder.blocks.1.attn.lora.q.down"),
        ("image_encoder.blocks.0.adapter.norm.bias", "image_encoder.blocks.0.mlp.adapter.norm.bias"),
        ("text_encoder.blocks.0.ssf.attn_in.scale", "text_encoder.blocks.0.attn.ssf.in_proj.scale"),
        ("image_encoder.blocks.2.mlp_out_bias", "image_encoder.blocks.2.mlp_out_proj_bias"),
        ("image_encoder.blocks.2.norm1_bias", "image_encoder.blocks.2.norm1_bias"),
        ("image_encoder.blocks.2.adaptformer.scale", "image_encoder.blocks.2.adaptformer.scale"),
    ],
)
def test_names_of_the_second_version(first: str, second: str) -> None:
    assert second_version(first) == second


@pytest.mark.parametrize("method", ["adaptformer", "adapter", "lora", "prompt", "ssf", "bitfit", "fft"])
def test_both_versions_of_lift_plus_are_read(method: str) -> None:
    first = lift_plus(method)
    renamed = {second_version(name) if ".blocks." in name else name: tensor for name, tensor in first.items()}
    read, expected = (compat.as_lift_state({"tuner": state}) for state in (renamed, first))
    assert {part: set(tensors) for part, tensors in read.items()} == {p: set(t) for p, t in expected.items()}
    assert all(torch.equal(read["tuner"][name], tensor) for name, tensor in expected["tuner"].items())


@pytest.mark.parametrize("method", METHODS)
def test_lift_plus_names(tiny_clip: Files, method: str) -> None:
    """Every tensor finds its place: each value stands in the model, under the part that its name tells."""
    given = lift_plus(method)
    state = compat.as_lift_state({"tuner": given})
    settings = compat.settings_of(state)
    assert settings["tuner"] == METHODS[method]
    if method == "text":
        assert settings["text_tuner"] == ("lora", "coop", "clip_adapter", "projection")
        assert (settings["text_rank"], settings["text_layers"]) == (RANK, (0, 1))
    model = build(tiny_clip, **settings)
    compat.load_lift_checkpoint(model, {"tuner": given})
    held = sorted(float(parameter.detach().sum()) for parameter in model.trained().values())
    assert held == pytest.approx(sorted(float(tensor.sum()) for tensor in given.values()), rel=1e-4, abs=1e-4)
    if method == "fft":
        block = model.vit.block(1)  # type: ignore[union-attr]
        for ours, theirs in ((block.qkv, "attn_in"), (block.mlp_out, "mlp_out"), (block.norm_1, "norm1")):
            assert torch.equal(ours.weight, given[f"image_encoder.blocks.1.{theirs}_weight"])  # type: ignore[arg-type]
    if method == "bitfit":
        block = model.vit.block(2)  # type: ignore[union-attr]
        for ours, theirs in ((block.qkv, "attn_in"), (block.mlp_in, "mlp_in"), (block.norm_1, "norm1")):
            assert torch.equal(ours.bias, given[f"image_encoder.blocks.2.{theirs}_bias"])  # type: ignore[arg-type]


def test_both_towers_have_sizes_of_their_own(tiny_clip: Files) -> None:
    """LIFT+ sets them apart: adapters of one width beside images, of another beside text."""
    state = {name: tensor for name, tensor in lift_plus("adaptformer").items() if name != "classifier.weight"}
    state |= bottleneck("text_encoder.blocks.1.adapter", 16, 4)
    settings = compat.settings_of(compat.as_lift_state({"tuner": state}))
    assert settings["classifier"] == "text"
    model = build(tiny_clip, **settings)
    compat.load_lift_checkpoint(model, {"tuner": state})
    down = model.tuner_parameters["text.adapter_list.1.down_proj.weight"]
    assert torch.equal(down, state["text_encoder.blocks.1.adapter.down.weight"])
    assert model.tuner_parameters["adaptformer_list.0.down_proj.weight"].shape == (RANK, D)


@pytest.mark.parametrize("tuner", ["full", "bias"])
def test_lift_names_imagenet_21k_vits_as_timm_does(tmp_path: Path, tuner: str) -> None:
    """The authors' modules are timm's own blocks: a checkpoint of their names and order finds its places."""
    architecture = "vit_tiny_patch16_224"
    source = timm.create_model(architecture, num_classes=0)
    weights = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), weights)
    for parameter in source.blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    named = dict(source.blocks.named_parameters())
    biases = [parameter for name, parameter in named.items() if name.endswith("bias")]
    given = {f"bias_tuned.{i}": bias.detach().clone() for i, bias in enumerate(biases)}
    if tuner == "full":
        given = {f"block_tuned.{name}": parameter.detach() for name, parameter in named.items()}
    state = {"tuner": given, "head": {"weight": torch.randn(CLASSES, 192)}}
    settings = compat.settings_of(compat.as_lift_state(state))
    assert settings["tuner"] == (tuner,)
    model = fastlift.create_model(
        f"timm:{architecture}", pretrained=weights, class_names=CLASS_NAMES, init="random", **settings
    )
    compat.load_lift_checkpoint(model, state)
    if tuner == "bias":  # all but the biases stay as they were
        source.load_state_dict(load_file(weights))
        with torch.no_grad():
            for own, bias in zip((p for n, p in named.items() if n.endswith("bias")), given.values(), strict=True):
                own.copy_(bias)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = source.forward_features(images)[:, 0]
        torch.testing.assert_close(model.features(images), expected, rtol=1e-4, atol=1e-4)


def masks_of_lift_plus(ratio: float, seeded: str) -> dict[str, Tensor]:
    """What LIFT+ stores of arbitrary fine-tuning: its generator begins anew with each block, later with each tensor."""
    given = {"classifier.weight": torch.randn(CLASSES, D)}
    for i in range(3):
        generator = torch.Generator().manual_seed(0)
        for part, outputs in PARTS.items():
            for kind, shape in (("weight", (outputs, 192 if part == "mlp_out" else D)), ("bias", (outputs,))):
                if seeded == "tensor":
                    generator.manual_seed(0)
                n = torch.Size(shape).numel()
                mask = torch.zeros(n, dtype=torch.bool)
                mask[torch.randperm(n, generator=generator)[: int(n * ratio)]] = True
                prefix = f"image_encoder.blocks.{i}.aft.{part}.masked_{kind}"
                given[f"{prefix}.mask"] = mask.view(shape)
                given[f"{prefix}.optimized_params"] = torch.randn(int(n * ratio))
    return given


@pytest.mark.parametrize("ratio", [0.1, 0.037, 1.0])
@pytest.mark.parametrize("seeded", ["block", "tensor"])
def test_masks_of_lift_plus_are_taken_from_the_file(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, seeded: str, ratio: float
) -> None:
    """Whatever drew them: the entries that they choose have the trained values, in a run folder too."""
    given = masks_of_lift_plus(ratio, seeded)
    torch.save({"tuner": given}, tmp_path / "checkpoint.pth.tar")
    command = ["import-lift", str(tmp_path / "checkpoint.pth.tar")]
    assert cli.main([*command, *import_flags(tiny_clip, tiny_data, tmp_path / "run"), "--json"]) == 0
    model = fastlift.load_run(tmp_path / "run")
    frozen = build(tiny_clip, tuner="none", init="random")
    for i in range(3):
        ours, theirs = (m.vit.block(i) for m in (model, frozen))  # type: ignore[union-attr]
        for part, site in (("attn_in", "qkv"), ("mlp_out", "mlp_out")):
            for kind in ("weight", "bias"):
                prefix = f"image_encoder.blocks.{i}.aft.{part}.masked_{kind}"
                expected = getattr(getattr(theirs, site), kind).detach().clone()
                expected[given[f"{prefix}.mask"]] = given[f"{prefix}.optimized_params"]
                assert torch.equal(getattr(getattr(ours, site), kind), expected)
    with pytest.raises(fastlift.UserError, match="no place for them"):
        compat.lift_state(model)


def import_flags(tiny_clip: Files, tiny_data: Path, output: Path) -> list[str]:
    paths = {
        "--data-root": tiny_data,
        "--class-names": tiny_data / "class_names.txt",
        "--train-list": tiny_data / "train.txt",
        "--test-list": tiny_data / "test.txt",
        "--model": tiny_clip[0],
        "--pretrained": tiny_clip[1],
        "--output": output,
    }
    return ["--dataset", "list", "--device", "cpu", *(str(part) for pair in paths.items() for part in pair)]


def test_an_import_takes_what_the_checkpoint_cannot_tell(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed and share of a mask are named by flags; what the checkpoint tells, or has no use for, is not overruled."""
    model = build(tiny_clip, tuner="mask", mask_ratio=0.1, mask_seed=3, init="random", seed=11)
    torch.save(compat.lift_state(model), tmp_path / "checkpoint.pth.tar")
    flags = [
        "import-lift",
        str(tmp_path / "checkpoint.pth.tar"),
        *import_flags(tiny_clip, tiny_data, tmp_path / "run"),
        "--mask-ratio",
        "0.1",
    ]
    for wrong, reason in [
        (["--tuner", "lora"], "an import of this checkpoint has tuner"),
        (["--epochs", "3"], "has epochs 0"),
        (["--rank", "8"], "would change nothing"),
    ]:
        assert cli.main([*flags, "--mask-seed", "3", *wrong]) == 2
        assert reason in capsys.readouterr().err.replace("\n", " ")
    assert cli.main([*flags, "--mask-seed", "3", "--json"]) == 0
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(fastlift.load_run(tmp_path / "run")(images), model(images))


@pytest.mark.parametrize("program", ["lift", "lift_plus"])
def test_a_run_folder_of_a_checkpoint(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: imported and evaluated; then evaluated, used for prediction and reported like any run."""
    model = build(tiny_clip, rank=4, layers=2, init="random", seed=11)
    checkpoint: dict[str, Any] = {"tuner": lift_plus("adaptformer")}
    if program == "lift":
        checkpoint = compat.lift_state(model)
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar")
    flags = import_flags(tiny_clip, tiny_data, tmp_path / "run")
    assert cli.main(["import-lift", str(tmp_path / "checkpoint.pth.tar"), *flags, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["recipe"] == program
    assert settings["data"]["interpolation"] == ("bilinear" if program == "lift" else "bicubic")
    assert results["model"]["layers"] == ([1, 2] if program == "lift" else [0, 1, 2])
    loaded = fastlift.load_run(tmp_path / "run")
    expected = model if program == "lift" else build(tiny_clip, rank=RANK, init="random")
    compat.load_lift_checkpoint(expected, checkpoint)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), expected(images))
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["center"]["accuracy"] == results["metrics"]["accuracy"]
    assert cli.main(["predict", str(tmp_path / "run"), str(tiny_data / "test" / "class0" / "0.jpg")]) == 0
    assert cli.main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_lift_plus_trains_the_biases_of_some_blocks(tiny_clip: Files) -> None:
    given = {name: tensor for name, tensor in lift_plus("bitfit").items() if "blocks.1." not in name}
    settings = compat.settings_of(compat.as_lift_state({"tuner": given}))
    assert settings["layers"] == (0, 2)
    model = build(tiny_clip, **settings)
    compat.load_lift_checkpoint(model, {"tuner": given})
    assert torch.equal(model.vit.block(2).out.bias, given["image_encoder.blocks.2.attn_out_bias"])  # type: ignore[union-attr]


def test_tuners_in_different_blocks_are_refused(tiny_clip: Files) -> None:
    state = lift_plus("adaptformer") | {n: t for n, t in lift_plus("lora").items() if "blocks.2." in n}
    with pytest.raises(fastlift.UserError, match=r"lora_list in \[2\]"):
        compat.settings_of(compat.as_lift_state({"tuner": state}))


def test_what_does_not_fit_is_named_and_nothing_is_written(
    tiny_clip: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = lift_plus("adaptformer")
    state["image_encoder.blocks.1.attention_gate"] = torch.zeros(1)
    with pytest.raises(fastlift.UserError, match=r"attention_gate"):
        compat.as_lift_state({"tuner": state})
    del state["image_encoder.blocks.1.attention_gate"], state["image_encoder.blocks.1.adaptformer.up.bias"]
    with pytest.raises(fastlift.UserError, match=r"missing tuner.adaptformer_list.1.up_proj.bias"):
        compat.load_lift_checkpoint(build(tiny_clip, rank=RANK), {"tuner": state})
    assert cli.main(["import-lift", str(tmp_path / "nothing.tar"), "--output", str(tmp_path / "run")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
