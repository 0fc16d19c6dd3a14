"""The compiler is imported when it is asked for, and torchvision is what it always is."""

import subprocess
import sys

PROGRAM = """
import sys
import detection.inference
assert "torchvision" in sys.modules and "torch._dynamo.utils" not in sys.modules and "sympy" not in sys.modules
import torch, torchvision
features, boxes = torch.rand(1, 2, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
torchvision.ops.roi_align(features, boxes, 2)
assert "sympy" not in sys.modules
from torchvision.ops.roi_align import is_compile_supported as ours
from torch._dynamo.utils import is_compile_supported
assert ours is not is_compile_supported and ours("cpu") == is_compile_supported("cpu")
print("done")
"""


def test_torchvision_comes_without_the_compiler() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ended.stdout == "done\n", ended.stderr
