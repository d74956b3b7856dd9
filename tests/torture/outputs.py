"""Scenarios of commands that write something else than a training: predictions, exports, packs, caches, adapters, imports.

Afterwards there is the old output or the new one, whole, or a part that says so and that the same command replaces.
"""

from __future__ import annotations

import io
import json
import shutil
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .harness import Commands, Ended
from .scenarios import Scenario, Scenarios, contents, data_flags, failed, model_flags, must, same

SAVE_ADAPTERS = """
import sys, timm, torch, fastlift
torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=32, num_heads=2, img_size=32, num_classes=0)
for parameter in fastlift.add_adapters(model, rank=RANK).values():
    torch.nn.init.normal_(parameter)
try:
    fastlift.save_adapters(model, "adapters")
except (OSError, fastlift.UserError) as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


class Outputs:
    """All of them; what each writes when nothing happens is made when it is first asked for."""

    def __init__(self, commands: Commands, scenarios: Scenarios) -> None:
        self._commands, self._scenarios, self._data = commands, scenarios, scenarios.data

    def all(self) -> list[Scenario]:
        """Each scenario whose calls are hurt one by one."""
        told = ("predict", "run", str(self._data / "test"), "--json")
        check = ("data", "check", *data_flags(self._data))
        pack = ("data", "pack", "pack", *data_flags(self._data))
        adapters = ("python", SAVE_ADAPTERS.replace("RANK", "3"))
        into = {"cache": "cache"}
        formats = ["pt2"] + ["onnx"] * (find_spec("onnxscript") is not None and find_spec("onnxruntime") is not None)
        return [
            Scenario("predict", self._scenarios.ended, told, self._predicted, {"output": "predictions.jsonl"}),
            self._to_file("jsonl"),
            self._to_file("parquet"),
            Scenario("pack", self._scenarios.clear, pack, self._packed),
            Scenario("check", self._scenarios.clear, check, self._checked, into),
            Scenario("cold cache", self._scenarios.clear, self._scenarios.train, self._cached, into, "/cache"),
            Scenario("adapters", self._old_adapters, adapters, self._saved),
            Scenario("import", self._scenarios.clear, self._import, self._imported),
            *(self._export(format) for format in formats),
        ]

    # What is written when nothing happens.

    def _untouched(self, name: str, *commands: tuple[tuple[str, ...], dict[str, Any]]) -> dict[str, bytes]:
        """The files that commands write to a folder or a file of this name."""
        self._scenarios.ended(self._commands)
        for command, more in commands:
            must(self._commands.run(*command, **more))
        return files(self._commands.folder / name)

    @cached_property
    def _predictions(self) -> dict[str, bytes]:
        scenario = self._named("predict")
        return self._untouched("predictions.jsonl", (scenario.command, scenario.more))

    @cached_property
    def _pack(self) -> dict[str, bytes]:
        return self._untouched("pack", (self._named("pack").command, {}))

    @cached_property
    def _cache(self) -> dict[str, bytes]:
        scenario = self._named("check")
        return self._untouched("cache", (scenario.command, scenario.more))

    @cached_property
    def _adapters(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Old and new ones."""
        old, new = ((("python", SAVE_ADAPTERS.replace("RANK", rank)), {}) for rank in "23")
        return self._untouched("adapters", old), self._untouched("adapters", new)

    @cached_property
    def _import(self) -> tuple[str, ...]:
        """Of a checkpoint as the authors' program writes it."""
        import torch

        import fastlift
        from fastlift.interop.lift_checkpoints import lift_state

        self._scenarios.ended(self._commands)
        checkpoint = self._data / "checkpoint.pth.tar"
        torch.save(lift_state(fastlift.load_run(self._commands.folder / "run")), checkpoint)
        flags = "--device cpu --amp fp32 --compile off --executor torchvision --workers 1 --output run"
        return ("import-lift", str(checkpoint), *data_flags(self._data), *model_flags(self._data), *flags.split())

    @cached_property
    def _import_run(self) -> dict[str, Any]:
        self._scenarios.clear(self._commands)
        must(self._commands.run(*self._import))
        return contents(self._commands.folder / "run")

    def _named(self, name: str) -> Scenario:
        return next(scenario for scenario in self.all() if scenario.name == name)

    # States to start from.

    def _old_adapters(self, commands: Commands) -> None:
        old, _ = self._adapters
        self._scenarios.clear(commands)
        restore(commands.folder / "adapters", old)

    # Ways on.

    def _predicted(self, commands: Commands, ended: Ended) -> str:
        """A part may be there where the command said that it failed; once more gives the whole."""
        (wanted,) = self._predictions.values()
        written = b"".join(files(commands.folder / "predictions.jsonl").values())
        if not wanted.startswith(written) or (ended.code == 0 and written != wanted):
            return f"wrong predictions under code {ended.code}: {written[-100:]!r}"
        scenario = self._named("predict")
        again = commands.run(*scenario.command, **scenario.more)
        return failed(again) or _differ(commands.folder / "predictions.jsonl", self._predictions)

    def _to_file(self, format: str) -> Scenario:
        """Predictions in a file that the same command goes on with; without pyarrow there are none in Parquet."""
        name, file = f"predict to {format}", f"out.{format}"
        kept = "jsonl" if find_spec("pyarrow") is None else format
        told = ("predict", "run", str(self._data / "test"), "--output", f"out.{kept}", "--resume")

        def gone_on(commands: Commands, ended: Ended) -> str:
            wanted, there = self._whole_file(kept), files(commands.folder / f"out.{kept}")
            finished = not (commands.folder / f".out.{kept}.unfinished").exists()
            if (ended.code == 0 or (finished and there)) and _records(there, kept) != wanted:
                return f"part of the predictions passes for all of them under code {ended.code}"
            again = commands.run(*told)
            left = [path.name for path in commands.folder.glob(".out.*")]
            differs = _records(files(commands.folder / f"out.{kept}"), kept) != wanted
            return failed(again) or (f"{file} differs" if differs else "") or (f"{left} is left" if left else "")

        return Scenario(name, self._scenarios.ended, told, gone_on)

    @cache  # noqa: B019 - as long as the scenarios
    def _whole_file(self, format: str) -> object:
        scenario = self._named(f"predict to {format}")
        return _records(self._untouched(f"out.{format}", (scenario.command, {})), format)

    def _packed(self, commands: Commands, ended: Ended) -> str:
        scenario, folder = self._named("pack"), commands.folder / "pack"
        there = (folder / "fastlift-pack.json").exists()
        if ended.code == 0 and not there:
            return "it ended well without a pack"
        again = commands.run(*scenario.command)
        if there and again.code != 2:
            return f"a pack was there, and packing again ended with {again.code}: {again.said[-300:]}"
        return ("" if there else failed(again)) or _differ(folder, self._pack)

    def _checked(self, commands: Commands, ended: Ended) -> str:
        """A cache that cannot be written costs time, nothing else."""
        scenario = self._named("check")
        wanted = self._cache
        if ended.code not in (0, -9) and not ended.said.strip():
            return f"it ended with {ended.code}"
        again = commands.run(*scenario.command, **scenario.more)
        return failed(again) or _differ(commands.folder / "cache", wanted)

    def _cached(self, commands: Commands, ended: Ended) -> str:
        """What is left of the cache is used or made again: the run goes on, and another one is the same too."""
        wrong = self._scenarios.resumed(commands, cache="cache")
        shutil.rmtree(commands.folder / "run")
        return wrong or self._scenarios.resumed(commands, cache="cache")

    def _saved(self, commands: Commands, ended: Ended) -> str:
        old, new = self._adapters
        found = visible(files(commands.folder / "adapters"))
        if found not in (old, new) or (ended.code == 0 and found != new):
            return f"neither the old adapters nor the new ones: {sorted(found)}"
        again = commands.run(*self._named("adapters").command)
        return failed(again) or _differ(commands.folder / "adapters", new)

    def _imported(self, commands: Commands, ended: Ended) -> str:
        """Neither --resume nor a second import ends with something else than the checkpoint."""
        run, wanted = commands.folder / "run", self._import_run
        if (run / "config.json").exists():
            resumed = commands.run("train", "--resume", "--output", "run")
            if resumed.code not in (0, 1, 2):
                return f"--resume ended with {resumed.code}: {resumed.said[-300:]}"
            if resumed.code == 0 and (wrong := same(contents(run), wanted)):
                return f"--resume made something else of an import: {wrong}"
        again = commands.run(*self._import, "--overwrite")
        return failed(again) or same(contents(run), wanted)

    # Exports.

    def _export(self, format: str) -> Scenario:
        path = f"served/model.{format}"
        command = ("export", "run", "--format", format, "--output", path, "--overwrite")
        return Scenario(
            f"export {format}",
            lambda commands: self._old_export(commands, format),
            command,
            lambda commands, ended: self._exported(commands, ended, format),
        )

    @cached_property
    def _exports(self) -> dict[str, tuple[Exported, Exported]]:
        """What files of each format say, old and new, as they are first needed."""
        return {}

    def _export_files(self, format: str) -> tuple[Exported, Exported]:
        if format not in self._exports:
            command = self._named(f"export {format}").command
            old, new = ((((*command, *more), {}),) for more in (("--tte", "fivecrop"), ()))
            self._exports[format] = (
                Exported(self._untouched("served", *old), format),
                Exported(self._untouched("served", *new), format),
            )
        return self._exports[format]

    def _old_export(self, commands: Commands, format: str) -> None:
        old, _ = self._export_files(format)
        self._scenarios.ended(commands)
        restore(commands.folder / "served", old.files)

    def _exported(self, commands: Commands, ended: Ended, format: str) -> str:
        """The old model or the new one, which describes itself, and beside it nothing or the same description."""
        old, new = self._export_files(format)
        found = Exported(visible(files(commands.folder / "served")), format)
        if found.inside not in (old.inside, new.inside) or (ended.code == 0 and found.inside != new.inside):
            return f"neither the old export nor the new one: {sorted(found.files)}"
        if found.beside not in (None, found.inside):
            return "the description beside the model is of another one"
        again = commands.run(*self._named(f"export {format}").command)
        last = Exported(files(commands.folder / "served"), format)
        whole = last.inside == last.beside == new.inside and last.files.keys() == new.files.keys()
        return failed(again) or ("" if whole else f"once more left {sorted(last.files)}")


class Exported:
    """Files of an export by what they say: pt2 files of one model need not have the same bytes.

    Attributes:
        inside: the description in the model, with the logits that the model gives for an image of ones.
        beside: the same by the description beside it, or None where there is none.
    """

    def __init__(self, found: dict[str, bytes], format: str) -> None:
        self.files = found
        told, logits = (_of_onnx if format == "onnx" else _of_pt2)(found[f"model.{format}"])
        self.inside = told, logits
        self.beside: tuple[Any, list[float]] | None = None
        if (beside_it := f"model.{format}.json") in found:
            beside = json.loads(found[beside_it])
            beside.pop("largest_difference")
            self.beside = beside, logits


def _of_onnx(model: bytes) -> tuple[Any, list[float]]:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map["fastlift"])
    images = np.ones((1, *described["input"]["shape"][1:]), dtype=np.float32)
    return described, session.run(["logits"], {"images": images})[0][0].tolist()


def _of_pt2(model: bytes) -> tuple[Any, list[float]]:
    import torch

    texts = {"fastlift.json": ""}
    program = torch.export.load(io.BytesIO(model), extra_files=texts)
    described = json.loads(texts["fastlift.json"])
    return described, program.module()(torch.ones(1, *described["input"]["shape"][1:]))[0].tolist()


def files(place: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all below a folder by their names; nothing where there is nothing."""
    if place.is_file():
        return {place.name: place.read_bytes()}
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def _records(found: dict[str, bytes], format: str) -> object:
    """What a file of predictions holds: of Parquet its rows, however they were written; None where there is none."""
    data = next(iter(found.values()), None)
    if data is None or format == "jsonl":
        return data
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(data)).to_pylist()


def visible(found: dict[str, bytes]) -> dict[str, bytes]:
    """Without the drafts that a kill leaves until the next writing."""
    return {name: data for name, data in found.items() if not Path(name).parts[0].startswith(".")}


def restore(folder: Path, wanted: dict[str, bytes]) -> None:
    """Make files again."""
    for name, data in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _differ(place: Path, wanted: dict[str, bytes]) -> str:
    found = files(place)
    if found.keys() != wanted.keys():
        return f"files {sorted(found.keys() ^ wanted.keys())}"
    return next((f"{name} differs" for name, data in wanted.items() if found[name] != data), "")
