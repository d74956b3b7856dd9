"""What is installed: the built wheel holds everything that the checkout has, and imports on its own."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build_wheel(folder: Path, **environment: str) -> Path:
    """A wheel built from a copy of the sources, so that no build folder of the checkout takes part in it."""
    source, output = folder / "source", folder / "wheel"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "_native_missing.txt")
    for name in ("fastlift", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for pattern in ("*.toml", "*.py", "CMake*", "README.md", "LICENSE"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, source)
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
        "fastlift/data/datasets/lists/NOTICE.md",
        "fastlift/reporting/report.html",
        "fastlift/reporting/report.css",
        "fastlift/reporting/report.js",
        "fastlift_kernels/__init__.py",
        "fastlift_kernels/py.typed",
        "fastlift_kernels/adapter/reference.py",
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "kernels/"))]


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
