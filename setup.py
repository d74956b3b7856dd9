"""Build script: metadata is in pyproject.toml; here is only what it cannot say.

The folder ``kernels/`` is installed as the package ``fastlift_kernels``, so that the repository reads
``fastlift/ kernels/`` while the ops stay importable without fastlift. CMake builds its native CPU library; an install
never fails for want of a compiler: the reason is kept beside the package, where ``fastlift doctor`` finds it.
"""

import shutil
import subprocess
import warnings
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = "_native.so"
REASON = "_native_missing.txt"

kernel_packages = ["fastlift_kernels"] + [f"fastlift_kernels.{name}" for name in find_packages("kernels")]


class BuildNative(build_ext):
    """Builds ``fastlift_kernels/_native.so`` with CMake: in the source tree for editable installs, else for the wheel."""

    def run(self) -> None:
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True)
        for name in (LIBRARY, REASON):
            (folder / name).unlink(missing_ok=True)
        reason = self._build(folder)
        if reason:
            (folder / REASON).write_text(reason + "\n", encoding="utf-8")
            warnings.warn(f"fastlift: no native CPU library ({reason}); plain PyTorch is used instead", stacklevel=1)

    def get_outputs(self) -> list[str]:
        return [str(self._folder() / name) for name in (LIBRARY, REASON) if (self._folder() / name).is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def _folder(self) -> Path:
        in_source = self.inplace or getattr(self, "editable_mode", False)
        return ROOT / "kernels" if in_source else Path(self.build_lib).resolve() / "fastlift_kernels"

    def _build(self, folder: Path) -> str:
        """Why there is no library, or "" when there is one."""
        if shutil.which("cmake") is None:
            return "CMake was not found at install"
        build = ROOT / "build" / f"native-{'inplace' if folder.parent == ROOT else 'wheel'}"
        shutil.rmtree(build, ignore_errors=True)  # an isolated build's CMake is gone by the next install
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DFASTLIFT_TESTS=OFF", f"-DFASTLIFT_OUTPUT={folder}"]
        if shutil.which("ninja") is not None:
            configure += ["-G", "Ninja"]
        for step, command in (("configuring", configure), ("compiling", ["cmake", "--build", str(build), "-j"])):
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                return f"{step} failed at install: {error}"
            if done.returncode != 0:
                said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
                return f"{step} failed at install: " + " | ".join(said[:6])[:600]
        return "" if (folder / LIBRARY).is_file() else "CMake built no library"


class PlatformWheel(bdist_wheel):
    """The library is loaded through ctypes: the wheel is for one platform, and for every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    packages=find_packages(include=["fastlift", "fastlift.*"]) + kernel_packages,
    package_dir={"fastlift_kernels": "kernels"},
    package_data={
        "fastlift": ["py.typed", "assets/*", "reporting/report.*", "serving/page/*", "data/datasets/lists/*"],
        "fastlift_kernels": ["py.typed"],
    },
    # NOTICE.md is among the licences (pyproject.toml), beside the packages.
    exclude_package_data={"": ["*.cpp", "*.h", "README.md", "*NOTICE.md"]},
    ext_modules=[Extension("fastlift_kernels._native", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
