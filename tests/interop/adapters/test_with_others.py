"""Adapters beside others' own ways: transformers' save_pretrained, PEFT's models, DDP and FSDP2."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.adapters.models import build, images, output, randomise
from torch import nn

import fastlift
from fastlift.errors import FastliftWarning


def test_save_pretrained_warns_that_it_drops_adapters(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    model: Any = build("vit_classifier")
    fastlift.add_adapters(model, "lora", rank=2)
    for place, one in enumerate((model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        with pytest.warns(FastliftWarning, match=r"does not bring its adapters back.*fastlift\.save_adapters"):
            one.save_pretrained(tmp_path / str(place))
        assert one.save_pretrained.args[0] is one, "a copy would save the model that it was copied from"
    assert not hasattr(transformers.ViTForImageClassification.from_pretrained(tmp_path / "0"), "_fastlift_adapters")
    fastlift.remove_adapters(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FastliftWarning)
        model.save_pretrained(tmp_path / "plain")


def test_a_model_of_peft_is_refused_and_left_alone() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(build("vit"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for one in (model, model.base_model.model):
        with pytest.raises(fastlift.UserError, match=r"has adapters of PEFT, which would be frozen: merge them"):
            fastlift.add_adapters(one)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    fastlift.add_adapters(model.merge_and_unload(), rank=2)


def _adapted(tuner: Any) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    model = build("timm")
    trained = fastlift.add_adapters(model, tuner, rank=None if tuner == "layernorm" else 4)
    randomise(trained)
    return model, trained


def _assert_all_are_told(model: nn.Module, tuner: str, folder: Path) -> None:
    """What the first process cannot write is an error of the other one too, which would go on without a file."""
    parameter = next(iter(fastlift.tuner_parameters(model).values()))
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(torch.nan)
    with pytest.raises(fastlift.UserError, match="not finite"):
        fastlift.save_adapters(model, folder, format="peft" if tuner == "lora" else "fastlift")
    with torch.no_grad():
        parameter.copy_(before)
    if tuner != "lora":
        with pytest.raises(fastlift.UserError, match=f"PEFT knows no {tuner}"):
            fastlift.save_adapters(model, folder, format="peft")
    folder.parent.joinpath("file").touch()
    with pytest.raises(fastlift.UserError, match="is a file"):
        fastlift.save_adapters(model, folder.parent / "file")
    assert not folder.exists()


def _process(rank: int, address: str, folder: str, tuner: str, sharded: bool) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model, _ = _adapted(tuner)
    wanted = output(model, images()).detach()
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for block in model.blocks:  # type: ignore[union-attr]
            fully_shard(block)
        fully_shard(model)
        torch.testing.assert_close(model(images()).detach(), wanted, rtol=1e-4, atol=1e-5)
        _assert_all_are_told(model, tuner, Path(folder))
        fastlift.save_adapters(model, folder)
        with torch.no_grad():
            for parameter in fastlift.tuner_parameters(model).values():
                parameter.zero_()
        torch.distributed.barrier()
        fastlift.load_adapters(model, folder)
        torch.testing.assert_close(model(images()).detach(), wanted, rtol=1e-4, atol=1e-5)
        loss = model(images()).square().mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in fastlift.tuner_parameters(model).values())
        if tuner == "layernorm":  # the model's own weights, whose values come back too
            fastlift.remove_adapters(model)
            norm: Any = model.blocks[1].norm2  # type: ignore[index]
            assert torch.equal(norm.weight.full_tensor(), build("timm").blocks[1].norm2.weight)  # type: ignore[index]
    else:
        fastlift.save_adapters(nn.parallel.DistributedDataParallel(model), folder)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("tuner", "sharded"), [("adaptformer", True), ("lora", True), ("layernorm", True), ("lora", False)]
)
def test_saved_by_several_processes(tmp_path: Path, tuner: Any, sharded: bool) -> None:
    arguments = (f"file://{tmp_path}/meeting", str(tmp_path / "adapters"), tuner, sharded)
    torch.multiprocessing.spawn(_process, arguments, nprocs=2)
    model, trained = _adapted(tuner)
    fresh = build("timm")
    loaded = fastlift.load_adapters(fresh, tmp_path / "adapters")
    assert loaded.keys() == trained.keys()
    for name, parameter in loaded.items():
        assert torch.equal(parameter, trained[name])
    torch.testing.assert_close(output(fresh, images()), output(model, images()), rtol=1e-5, atol=1e-5)
