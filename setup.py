"""Build script: metadata is in pyproject.toml; here is only what it cannot say.

The folder ``kernels/`` is installed as the package ``fastlift_kernels``, so that the repository reads
``fastlift/ kernels/`` while the ops stay importable without fastlift.
"""

from setuptools import find_packages, setup

kernel_packages = ["fastlift_kernels"] + [f"fastlift_kernels.{name}" for name in find_packages("kernels")]

setup(
    packages=find_packages(include=["fastlift", "fastlift.*"]) + kernel_packages,
    package_dir={"fastlift_kernels": "kernels"},
    package_data={
        "fastlift": ["py.typed", "assets/*", "reporting/*.html"],
        "fastlift_kernels": ["py.typed"],
    },
)
