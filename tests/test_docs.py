"""What the documents name is there: files, anchors, commands, flags, make targets, Python names; their snippets run."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastlift
from fastlift import cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/**/*.md",
        "benchmarks/*/README.md",
        "examples/*/README.md",
        "kernels/**/README.md",
    )
    for path in ROOT.glob(pattern)
)
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
ROOMS = ("fastlift", "tests", "kernels", "benchmarks", "docs", "examples", "scripts")
# Files that a machine with a GPU will add.
MADE_LATER = re.compile(r"benchmarks/results/gpu_|gpu_step\*\.json")
# Flags of other programs that the documents name: torchrun, pytest, uv, unshare, and the scripts of benchmarks/ and tests/.
OTHERS_FLAGS = {
    "--help-all", "--target",
    "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--shutdown-timeout", "--signals-to-handle",
    "--max-restarts", "--rdzv-conf", "--signal", "--requeue",
    "--only", "--scenarios", "--set", "--descriptors", "--output", "--rehearse", "--user", "--resolution", "--part",
}  # fmt: skip

document = pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)


def code_blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def inline_code(path: Path) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`]+)`", text)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def tracked() -> list[str]:
    """All files of the repository, where it is one."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@document
def test_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]+`", "code", text)  # which holds no links, whatever its brackets
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


@document
def test_named_files_exist(path: Path) -> None:
    """A path from the root, or the end of one; in code blocks, paths from the root."""
    blocks = "\n".join(text for _, text in code_blocks(path))
    from_root = re.compile(rf"(?<![\w/.$-])(?:{'|'.join(ROOMS)})/[\w./*-]*\w")
    named = {name for text in (*inline_code(path), blocks) for name in from_root.findall(text)}
    for name in sorted(name for name in named if not MADE_LATER.search(name)):
        assert list(ROOT.glob(name)), f"{name}: no such file"
    ends = {code for code in inline_code(path) if re.fullmatch(r"[\w./-]+\.(py|cpp|c|h|md|toml)", code)}
    for name in sorted(ends) if path.name != "architecture.md" else ():  # which also tells how files lay before
        found = [file for file in tracked() if file == name or file.endswith("/" + name.removeprefix("../"))]
        assert found, f"{name}: no file of the repository ends like this"


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every call of ``fastlift`` in code blocks and between backticks, from the command's name on."""
    blocks = "\n".join(text for language, text in code_blocks(path) if language != "python")
    lines = [*blocks.replace("\\\n", " ").splitlines(), *inline_code(path)]
    for line in lines:
        found = re.match(r"\s*(?:torchrun .*?-m )?fastlift (\w[\w-]*\b.*|)", line)
        if found and found[1]:
            yield shlex.split(found[1], comments=True)


@cache
def flags(*command: str) -> frozenset[str]:
    """The flags in a command's help."""
    name, *rest = command
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        importlib.import_module(f"fastlift.commands.{name.replace('-', '_')}").run([*rest, "--help-all"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", output.getvalue()))


@document
def test_commands_and_flags_are_known(path: Path) -> None:
    for words in commands(path):
        name, *rest = words
        for choice in name.split("|"):
            assert choice in cli.COMMANDS, f"fastlift {choice}: no such command"
        for flag in (word.split("=")[0] for word in rest if re.match(r"--[a-z]", word)):
            assert flag in known(name, rest), f"fastlift {' '.join(words)}: {flag} is no flag of it"


def known(command: str, rest: list[str]) -> frozenset[str]:
    """All flags that a command takes behind the words that follow it."""
    if command in ("data", "bench") and rest and not rest[0].startswith("--"):
        return frozenset().union(*(flags(command, part) for part in rest[0].split("|")))
    return flags(command)


@document
def test_flags_between_backticks_are_known(path: Path) -> None:
    everywhere = OTHERS_FLAGS.union(*(flags(*name.split()) for name in ALL))
    for code in inline_code(path):
        if flag := re.match(r"--[a-z][a-z0-9-]*", code):
            assert flag[0] in everywhere, f"{code}: no command has this flag"


ALL = (
    *(name for name in cli.COMMANDS if name not in ("data", "bench")),
    *(f"data {name}" for name in ("check", "prepare", "stats", "pack")),
    *(f"bench {name}" for name in ("data", "train", "text")),
)


@document
def test_make_targets_and_modules_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = "\n".join([*(text for _, text in code_blocks(path)), *inline_code(path)])
    for target in re.findall(r"(?<![\w-])make ([a-z][\w-]*)", text):
        assert re.search(rf"^[^\n#=]*\b{target}\b[^\n=]*:", makefile, re.MULTILINE), f"make {target}: no such target"
    for module in re.findall(r"python -m ((?:benchmarks|tests)[\w.]*\w)", text):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), f"python -m {module}: not there"


@document
def test_python_names_exist_and_snippets_parse(path: Path) -> None:
    blocks = [text for language, text in code_blocks(path) if language == "python"]
    for block in blocks:
        compile(block, str(path), "exec")
    named = re.findall(
        r"(?<![\w./-])(fastlift(?:_kernels)?(?:\.[A-Za-z_]\w*)+)", "\n".join([*blocks, *inline_code(path)])
    )
    for name in sorted({name for name in named if not name.endswith((".json", ".NAME"))}):
        assert resolve(name) is not None, f"{name}: no such attribute"


def resolve(name: str) -> object:
    """An attribute by its dotted name; modules are imported on the way."""
    first, *rest = name.split(".")
    found: object = importlib.import_module(first)
    done = first
    for part in rest:
        done += f".{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(done)
    return found


# Older words, for which CONTRIBUTING.md has others, and where they remain: formats, captions, the walks through the old code.
OLD_WORDS = re.compile(
    r"picture|stand-?in\b|standins|\btall(y|ies)\b|\bgrad(e|ed|es|ing)\b|(train|eval|render)\w*[_ ]views?\b", re.I
)
REMAIN = re.compile(
    r'"pictures"|a picture of a|in the picture\.|load_picture|StandIns|render_views|eval_views|(Train|Eval)Views'
)


def test_old_words_stay_away() -> None:
    for name in tracked():
        if name.endswith((".py", ".md", ".cpp", ".h")) and name not in ("CHANGELOG.md", "tests/test_docs.py"):
            for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
                found = OLD_WORDS.search(REMAIN.sub("", f"{name} {line}"))
                assert not found, f"{name}:{number}: {found[0]!r} has another word in CONTRIBUTING.md"


def test_the_snippets_of_drop_in_run(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, as in one script, around a small timm ViT."""
    from timm.models.vision_transformer import VisionTransformer

    monkeypatch.chdir(tmp_path)
    training, adapters, _, loading = (
        text for language, text in code_blocks(ROOT / "docs/drop_in.md") if language == "python"
    )

    def small_vit() -> VisionTransformer:
        return VisionTransformer(img_size=32, patch_size=16, embed_dim=768, depth=1, num_heads=12, num_classes=0)

    names: dict[str, Any] = {"torch": torch, "vit": small_vit(), "class_counts": [9, 4, 1]}
    exec(training, names)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    names["loss_function"](names["vit"](images), labels).backward()
    names["optimizer"].step()

    names["model"] = small_vit()
    before = set(names["model"].state_dict())
    exec(adapters, names)
    assert set(names["model"].state_dict()) == before
    assert (tmp_path / "my-adapters/adapters.safetensors").is_file()

    for name in ("train.txt", "test.txt", "names.txt"):
        loading = loading.replace(f'"{name}"', repr(str(tiny_data / name.replace("names", "class_names"))))
    loading = loading.replace("range(10)", "range(1)").replace('"cuda"', '"cpu"')
    names |= {"root": tiny_data, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    exec(loading, names)
    assert names["images"].shape[1:] == (3, 224, 224)
    names["loader"].close()


def test_the_snippet_of_a_runs_classifier_runs(
    tiny_clip: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny CLIP in place of OpenAI's: it gives the run's probabilities."""
    import open_clip
    from interop.adapters.test_of_runs import images, open_clip_visual, save_run_adapters, trained_model

    monkeypatch.chdir(tmp_path)
    run = trained_model(tiny_clip, "adaptformer")
    save_run_adapters(run, "my-adapters")
    tiny = SimpleNamespace(visual=open_clip_visual(tiny_clip))
    monkeypatch.setattr(open_clip, "create_model", lambda name, pretrained: tiny)
    snippet = [text for language, text in code_blocks(ROOT / "docs/drop_in.md") if language == "python"][2]
    names: dict[str, Any] = {"fastlift": fastlift, "images": images()}
    exec(snippet, names)
    torch.testing.assert_close(names["probabilities"], run(images()).softmax(dim=1), rtol=1e-3, atol=1e-4)
    assert names["names"] == run.class_names


def test_the_snippet_of_exporting_runs() -> None:
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(patch_size=112, embed_dim=64, depth=1, num_heads=2, num_classes=0)
    fastlift.add_adapters(vit, rank=2)
    (snippet,) = (text for language, text in code_blocks(ROOT / "docs/exporting.md") if language == "python")
    names: dict[str, Any] = {"vit": vit}
    exec(snippet, names)
    three = torch.randn(3, 3, 224, 224)
    torch.testing.assert_close(names["program"].module()(three), vit(three), rtol=1e-4, atol=1e-4)


def test_the_snippets_of_predicting_run(
    tiny_clip: tuple[Path, Path], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a run without an epoch, beside a folder of images of which one is none."""
    from fixtures import tiny_recipe

    import fastlift

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "no.jpg").write_text("no image")
    for name in ("photo.jpg", "photos/one.jpg"):
        (tmp_path / name).write_bytes((tiny_data / "test" / "class0" / "0.jpg").read_bytes())
    run = fastlift.train(tiny_recipe(tiny_clip, tiny_data, epochs=0, amp="fp32"), output=tmp_path / "run").folder
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        names: dict[str, Any] = {"run": run}
        for language, text in code_blocks(ROOT / "docs/predicting.md"):
            if language == "python":
                exec(text, names)
    assert told.getvalue().count("photos/one.jpg") == 2
    assert told.getvalue().count("is text, not an image") == 2
