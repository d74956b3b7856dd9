"""Runs on the Hugging Face hub: a copy of a run that others may have, pushed there and loaded from there."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fastlift.config import SECTION_OF, SECTIONS, Config, load, names_file, to_dict
from fastlift.engine.model import load_run
from fastlift.errors import UserError
from fastlift.models.backbones import hub_name
from fastlift.models.lift import LiftModel
from fastlift.reporting.model_card import model_card
from fastlift.reporting.record import read_run
from fastlift.runs import checkpoints
from fastlift.runs.calibration import stored_calibration, write_calibration
from fastlift.runs.folder import RunFolder, open_run
from fastlift.runs.identity import store_identity
from fastlift.runs.stored import read_data, read_results
from fastlift.settings import NamesPlace, marker
from fastlift.system.files import write_json
from fastlift.system.hub import from_hub
from fastlift.system.progress import Quiet, Ui
from fastlift.training.kept import AVERAGE

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_HELD = (
    "config.json",
    "run.json",
    "data.json",
    "results.json",
    "calibration.json",
    "README.md",
    "checkpoints/*.safetensors",
)
_OF_THE_MACHINE = ("machine", "processes", "versions")  # of results.json: nobody needs them, and hosts have names


def publishable(
    folder: str | Path, to: str | Path, repository: str, *, checkpoint: str | None = None, licence: str | None = None
) -> Path:
    """A copy of a run for others: a run folder that ``load_run`` reads, with the trained weights alone and a model card.

    Its calibration goes along where it is of that checkpoint. Left out are the optimiser's state, logs, the report, predictions and thumbnails of test images, names of folders and URLs
    of this machine, and what tells about it.

    Args:
        folder: a run that has ended.
        to: a new or empty folder.
        repository: what the card says to load.
        checkpoint: as for ``load_run``.
        licence: of the trained weights, as the hub spells it (``apache-2.0``); the card says so where there is none.

    Raises:
        UserError: no run, one that has not ended, damaged files, or a folder that holds something.
    """
    run, target = open_run(Path(folder)), RunFolder(Path(to))
    if not run.has_ended():
        raise UserError(f"{run.path} has not ended: it has no results that a model card could tell")
    if target.path.exists() and (not target.path.is_dir() or any(target.path.iterdir())):
        raise UserError(f"{target.path} is not empty: name a new folder")
    config, identity = load(run.config), run.identity()
    path = run.find_checkpoint(checkpoint)
    shared, files = _for_others(config)
    results = {name: value for name, value in read_results(run.results).items() if name not in _OF_THE_MACHINE}
    results["model"] = {**results.get("model", {}), "name": shared.model.model}
    record = replace(read_run(run.path), config=to_dict(shared), results=results)
    if "soup" in results:  # the names of its parts are folders of this machine
        parts = [
            {name: value for name, value in one.items() if name != "name"} for one in results["soup"]["ingredients"]
        ]
        results["soup"] = {**results["soup"], "ingredients": parts}
    card = model_card(
        record, repository, licence=licence, base=hub_name(config.model.model, config.model.pretrained), files=files
    )
    target.checkpoints.mkdir(parents=True)
    write_json(target.config, to_dict(shared))
    if identity is not None:
        store_identity(target.identity_file, identity)
    write_json(target.data, read_data(run.data))
    write_json(target.results, results)
    if path is not None:
        found = checkpoints.read(path, identity)
        average = {key: tensor for key, tensor in found.kept.items() if key.startswith(f"{AVERAGE}.")}
        checkpoints.write(target.checkpoints / path.name, found.trained, average, found.state)
    fitted = stored_calibration(run)
    if fitted is not None and fitted["fitted_on"]["checkpoint"] == (None if path is None else path.stem):
        write_calibration(target, fitted)  # names no folder of this machine
    (target.path / "README.md").write_text(card, encoding="utf-8")
    return target.path


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    checkpoint: str | None = None,
    licence: str | None = None,
    message: str = "A run of fastlift",
    ui: Ui | None = None,
) -> str:
    """Upload what ``publishable`` makes of a run as ``user/name``, and give the page's address.

    Args:
        private: make a new repository private; one that exists stays as it is.
        message: of the commit.

    Raises:
        UserError: as ``publishable``; a name that is none; no right to write there, or no answer from the hub.
    """
    check_repository(repository)
    told = ui or Quiet()
    with tempfile.TemporaryDirectory() as drafts:
        draft = publishable(folder, Path(drafts) / "run", repository, checkpoint=checkpoint, licence=licence)
        size = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
        told.say(f"{repository}: {size / 2**20:.1f} MiB to upload")
        return _asking(lambda api: _upload(api, draft, repository, private, message), f"push to {repository}")


def from_pretrained(
    repository: str,
    *,
    revision: str | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
    device: str = "cpu",
    amp: Literal["auto", "bf16", "fp16", "fp32"] = "fp32",
    calibrated: bool = False,
) -> LiftModel:
    """The model of a run that was pushed to the hub: ``from_pretrained("user/name").predict("photo.jpg")``.

    Args:
        repository: ``user/name``; its files are kept in the hub's cache, and used from there where there is no network.
        revision: a branch, tag or commit.
        ui, device, amp, calibrated: as for ``load_run``. Downloads show the hub client's own bars, but for ``ui=None``, which is silent.

    Raises:
        UserError: a name that is none, no such repository, one that holds no run, or no answer from the hub; or as ``load_run``.
    """
    check_repository(repository)
    from huggingface_hub import snapshot_download

    bar = _no_bar() if ui is None else None

    def fetch(_: Any) -> str:
        return from_hub(
            f"the files of {repository}",
            lambda: str(snapshot_download(repository, revision=revision, allow_patterns=list(_HELD), tqdm_class=bar)),
            "load a run folder with load_run",
            newest=True,
        )

    found = Path(_asking(fetch, repository))
    if not (found / "config.json").is_file() or not (found / "data.json").is_file():
        raise UserError(f"{repository} holds no run of fastlift: it has no config.json and data.json of one")
    return load_run(found, ui=ui, device=device, amp=amp, calibrated=calibrated)


def _no_bar() -> Any:
    """The hub client's bar, which shows nothing."""
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named | {"disable": True})

    return NoBar


def check_repository(name: str) -> None:
    """Refuse what is no name of a repository (``user/name``) before anything is asked. Raises: UserError."""
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise UserError(f"{name!r} is no name of a repository on the hub: expected user/name")


def _upload(api: Any, draft: Path, repository: str, private: bool, message: str) -> str:
    api.create_repo(repository, private=private, exist_ok=True)
    # What an earlier push left of other checkpoints would be loaded in place of this one.
    api.upload_folder(
        repo_id=repository,
        folder_path=str(draft),
        commit_message=message,
        delete_patterns=["checkpoints/*.safetensors"],
    )
    return f"{api.endpoint}/{repository}"


def _asking(ask: Any, what: str) -> str:
    """What the hub answers; its errors are one sentence."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        return str(ask(HfApi()))
    except LocalTokenNotFoundError as error:
        raise UserError(f"{what}: the hub asks who you are: `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = {
            401: "it asks who you are: `hf auth login`, or set HF_TOKEN (or there is no such repository)",
            403: "your token may not do this",
            404: "there is no such repository or revision, or it is private",
        }.get(int(status), str(error).splitlines()[0])
        raise UserError(f"{what}: the hub answers {status}: {hint}", exit_code=1) from error
    except UserError:
        raise
    except Exception as error:  # whatever the client's own HTTP library raises
        raise UserError(f"{what}: the hub does not answer ({type(error).__name__}: {error})", exit_code=1) from error


def _for_others(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The settings without places of this machine; files of the model keep their names alone, which are given too."""
    changed: dict[str, Any] = {}
    files = []
    for name, value in config.flat().items():
        if marker(SECTIONS[SECTION_OF[name]], name, NamesPlace) is not None:
            changed[name] = None
        elif (named := names_file(name, value)) is not None:
            changed[name] = named.renamed(value, lambda text: Path(text).name if Path(text).is_absolute() else text)
            if changed[name] != value:
                files.append(Path(value).name)
    return config.merged(**{"pretrained": config.model.pretrained} | changed), tuple(files)
