"""What is installed: the built wheel holds everything that the checkout has, and imports on its own."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def copied_sources(source: Path) -> Path:
    """A copy of what a build reads, so that no build folder of the checkout takes part in it."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "_native_missing.txt")
    for name in ("fastlift", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for pattern in ("*.toml", "*.py", "*.in", "CMake*", "README.md", "LICENSE"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, source)
    return source


def build_wheel(folder: Path, **environment: str) -> Path:
    """A wheel of this checkout."""
    source, output = copied_sources(folder / "source"), folder / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(output)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, env=os.environ | environment)
    assert built.returncode == 0, built.stderr
    return next(output.glob("fastlift-*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With whatever compiler this machine has, and without optimisation, which would take most of a minute."""
    return build_wheel(tmp_path_factory.mktemp("built"), CMAKE_BUILD_TYPE="Debug")


def test_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "fastlift/cli.py",
        "fastlift/py.typed",
        "fastlift/assets/shapes_clip.json",
        "fastlift/assets/shapes_clip.safetensors",
        "fastlift/data/datasets/lists/ImageNet_LT_classnames.txt.gz",
        "fastlift/reporting/report.html",
        "fastlift/reporting/report.css",
        "fastlift/reporting/report.js",
        "fastlift_kernels/__init__.py",
        "fastlift_kernels/py.typed",
        "fastlift_kernels/adapter/reference.py",
    }
    assert wanted <= names
    assert [name for name in names if name.endswith("licenses/fastlift/data/datasets/lists/NOTICE.md")]
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "kernels/"))]


def test_the_wheel_passes_the_check_that_make_wheel_ends_with(wheel: Path) -> None:
    if (check := shutil.which("check-wheel-contents", path=str(Path(sys.executable).parent))) is None:
        pytest.skip("check-wheel-contents comes with the extra dev")
    done = subprocess.run([check, str(wheel)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_wheel_imports_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """In a process that cannot see the editable install: the packages come from the wheel's folder."""
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__ + getattr(f, '__name__', '').lower()];"
        f"sys.path.insert(0, {str(target)!r});"
        "import fastlift, fastlift_kernels, torch;"
        f"assert fastlift.__file__.startswith({str(target)!r}), fastlift.__file__;"
        f"assert fastlift_kernels.__file__.startswith({str(target)!r}), fastlift_kernels.__file__;"
        "print(fastlift_kernels.quick_gelu(torch.ones(3)).shape);"
        "from fastlift.cli import main; main(['--version'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "fastlift 0." in run.stdout


def test_the_wheel_is_for_any_linux_and_works_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    """As `make wheel` tags it: what it needs are glibc of 2018, the C++ runtime, and torch's OpenMP library."""
    pytest.importorskip("auditwheel", reason="auditwheel tags wheels; it comes with the extra dev")
    if not any(name.endswith("_native.so") for name in zipfile.ZipFile(wheel).namelist()):
        pytest.skip("this machine has no compiler")
    repair = [sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "--wheel-dir", str(tmp_path)]
    tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([*repair, str(wheel)], capture_output=True, text=True, env=os.environ | tools)
    assert done.returncode == 0, done.stderr
    [tagged] = tmp_path.glob("*.whl")
    tag = re.fullmatch(r"fastlift-.*-py3-none-manylinux_2_(\d+)_x86_64(?:\..*)?\.whl", tagged.name)
    assert tag, tagged.name
    assert int(tag[1]) <= 28  # as torch's own wheels
    files = zipfile.ZipFile(tagged).namelist()
    assert not [name for name in files if "libgomp" in name or ".libs/" in name], files
    target = tmp_path / "site"
    zipfile.ZipFile(tagged).extractall(target)
    code = (
        "import torch, fastlift_kernels as kernels; report = kernels.available();"
        f"assert kernels.__file__.startswith({str(target)!r}) and report['native'], report;"
        "x = torch.linspace(-3, 3, 99); torch.testing.assert_close(kernels.quick_gelu(x, impl='native'), x * (1.702 * x).sigmoid())"
    )
    nothing = {"PATH": str(tmp_path), "PYTHONPATH": str(target)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=nothing)
    assert run.returncode == 0, run.stderr


def test_the_sources_hold_what_the_wheel_is_built_from(tmp_path: Path) -> None:
    """A source distribution, unpacked elsewhere, has each file of the packages, the native sources and CMake's."""
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
    pytest.importorskip("build.__main__", reason="build makes source distributions; it comes with the extra dev")
    done = subprocess.run([*build, str(copied_sources(tmp_path / "source"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [archive] = tmp_path.glob("fastlift-*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    listed = subprocess.run(
        ["git", "ls-files", "fastlift", "kernels"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    wanted = {*listed.stdout.splitlines(), "CMakeLists.txt", "CMakePresets.json", "LICENSE", "README.md", "setup.py"}
    assert not wanted - held


def test_the_dockerfile_is_linted_and_copies_what_there_is() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    kept = (ROOT / ".dockerignore").read_text()
    assert all(f"!{name}\n" in kept for name in copied)
    extras = {extra for found in re.findall(r"whl'\)\[([a-z,0-9-]+)\]", text) for extra in found.split(",")}
    declared = declared_extras()
    assert extras
    assert extras <= declared.keys()
    if (hadolint := shutil.which("hadolint", path=str(Path(sys.executable).parent))) is None:
        pytest.skip("hadolint comes with the extra dev")
    done = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_conda_environment_installs_extras_that_there_are() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [one["pip"] for one in environment["dependencies"] if isinstance(one, dict)]
    [extras] = [re.fullmatch(r"\.\[(.*)\]", one) for one in pip]
    assert extras
    assert set(extras[1].split(",")) <= declared_extras().keys()


def test_the_guide_lists_the_extras_of_users() -> None:
    text = (ROOT / "docs" / "installing.md").read_text().split("## Extras")[1].split("\n## ")[0]
    listed = {
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    assert listed == declared_extras().keys() - {"test", "fuzz", "dev"}


def test_the_citation_names_this_version() -> None:
    import fastlift

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fastlift.__version__
    assert citation["license"] == "Apache-2.0"
    titles = [paper["title"] for paper in citation["references"]]
    readme = (ROOT / "README.md").read_text().replace("{", "").replace("}", "")
    assert len(titles) == 2
    assert all(f"= {title}," in readme for title in titles)


def declared_extras() -> dict[str, list[str]]:
    """The extras of pyproject.toml; by its text, since Python 3.10 has no reader of TOML."""
    text = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return {name: listed.split(", ") for name, listed in re.findall(r"^([a-z0-9-]+) = \[(.*)\]$", text, re.MULTILINE)}


def test_without_a_compiler_the_install_succeeds_and_says_what_is_missing(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("without CMake the reason is another one")
    target = tmp_path / "site"
    zipfile.ZipFile(build_wheel(tmp_path, CXX="/nowhere/c++")).extractall(target)
    assert not list(target.rglob("_native.so"))
    code = (
        "import torch, fastlift_kernels as kernels; from fastlift import doctor; report = kernels.available();"
        f"assert kernels.__file__.startswith({str(target)!r}), kernels.__file__;"
        "assert not report['native'] and '/nowhere/c++' in report['native_reason'], report;"
        "x = torch.ones(3); assert torch.equal(kernels.quick_gelu(x), kernels.quick_gelu(x, impl='reference'));"
        "print(*doctor.report()['advice'])"
    )
    environment = os.environ | {"PYTHONPATH": str(target)}  # which comes before the editable install
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    for said in ("/nowhere/c++", "slower", "g++"):
        assert said in run.stdout


def test_editable_install_imports_from_the_checkout(tmp_path: Path) -> None:
    code = "import fastlift, fastlift_kernels; print(fastlift.__file__); print(fastlift_kernels.__file__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert len(run.stdout.splitlines()) == 2


def test_importing_fastlift_is_light() -> None:
    code = "import sys, fastlift; sys.exit(any(name in sys.modules for name in ('torch', 'triton', 'nvidia.dali', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_resolve() -> None:
    import fastlift

    for name in fastlift.__all__:
        assert getattr(fastlift, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = fastlift.trian
