"""``fastlift_kernels`` needs torch alone, and the examples of its README run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "kernels" / "README.md"

# Whatever fastlift depends on beside torch is hidden; so are NumPy (which torch can do without) and fastlift itself.
# Every finder is asked through a filter, so that a hidden package is absent to ``find_spec`` too, as if not installed.
HIDE = """
import sys
HIDDEN = {
    "fastlift", "open_clip", "timm", "nvidia", "torchvision", "safetensors", "PIL", "tyro", "rich", "sklearn",
    "torchmetrics", "matplotlib", "jinja2", "tensorboard", "transformers", "numpy", "huggingface_hub",
}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""

OPS = """
import torch, fastlift_kernels as kernels
t = torch.randn(2, 5, 16, requires_grad=True)
w = [torch.randn(*shape) for shape in ((16,), (16,), (16,), (16,), (4, 16), (4,), (16, 4), (16,))]
for impl in ("reference", None):
    normed, residual = kernels.adapter(t, *w, 0.5, impl=impl)
    (normed.sum() + residual.square().sum()).backward()
    loss, best = kernels.cosine_cross_entropy(t[:, 0], torch.randn(7, 16), torch.tensor([1, 6]), impl=impl)
    (loss + kernels.quick_gelu(t, impl=impl).sum() + kernels.gelu(t, impl=impl).sum()).backward()
assert torch.isfinite(t.grad).all() and best.shape == (2,)
assert kernels.available()["reference"]
compiled = torch.compile(lambda t: kernels.adapter(t, *w, 0.5), fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(t)[1], residual)
assert not {name.split(".")[0] for name in sys.modules} & HIDDEN
"""


def run(code: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HIDE + code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_ops_with_torch_alone(tmp_path: Path) -> None:
    run(OPS, tmp_path)


def test_examples_of_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    text = "\n".join(blocks)
    for op in ("adapter(", "cosine_cross_entropy(", "quick_gelu("):
        assert op in text, f"no example of {op[:-1]}"
    run(text, tmp_path)
