"""python tests/alexnet_repro/compile_kernels.py: compiles the kernels for GPUs, of which none need be here, and prints
for each as JSON the local memory (spilled registers) and how many of its loads are 16 bytes wide.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet_repro.data import fused_input
from alexnet_repro.model import fused, fused_same_map

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_NUMBERS = {"places": "i32", "tiles": "i32", "first": "i32", "alpha": "fp32", "beta": "fp32", "k": "fp32"}
_CONV1 = {"HEIGHT": 55, "WIDTH": 55, "OUT_HEIGHT": 27, "OUT_WIDTH": 27, "CHANNELS": 96, "OUT_CHANNELS": 48, "MAPS": 48}
_CONV2 = {"HEIGHT": 27, "WIDTH": 27, "OUT_HEIGHT": 13, "OUT_WIDTH": 13}
_CONV2 |= {"CHANNELS": 128, "OUT_CHANNELS": 128, "MAPS": 128}
_LOCAL = {"HEIGHT": 12, "WIDTH": 12, "OUT_HEIGHT": 6, "OUT_WIDTH": 6}  # the CIFAR-10 net's conv2
_LOCAL |= {"CHANNELS": 64, "OUT_CHANNELS": 64, "MAPS": 64, "HALF": 4}
_STEPS = {"HALF": 2, "RELU": True, "NORM": True, "THREE_QUARTERS": True, "POOL": 3, "STRIDE": 2}


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], capability: int) -> dict[str, int]:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [i for i, (name, kind) in enumerate(signature.items()) if kind[0] == "*" or name == "first"]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": fused.WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [_TOOLS / "cuobjdump", "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"STACK:(\d+)", usage)
    assert match, usage
    return {"local_bytes": int(match[1]), "wide_loads": len(re.findall(r"ld\.global\.v[24]", made.asm["ptx"]))}


def main() -> None:
    if not (_TOOLS / "cuobjdump").is_file():
        sys.exit("cannot compile for a GPU here: this Triton has no cuobjdump")
    results = {}
    for capability in (80, 90):
        for layer, geometry, kind in (("conv1", _CONV1, "bf16"), ("conv2", _CONV2, "fp32"), ("local", _LOCAL, "fp32")):
            tile = fused.tile_of(geometry["MAPS"])
            pointers = {f"{name}_ptr": f"*{kind}" for name in ("x", "out", "grad", "grad_x")}
            types = {**_NUMBERS, **pointers, "bias_ptr": "*fp32", "bias_sums_ptr": "*fp32", "taken_ptr": "*i8"}
            constants = {**_STEPS, **geometry, **tile}
            name = f"{layer}, {kind}, {capability / 10}"
            results[f"forward, {name}"] = compiled(fused._forward, types, {**constants, "RELU_LAST": False}, capability)
            results[f"backward, {name}"] = compiled(fused._backward, types, constants, capability)
    geometry = {"HEIGHT": 27, "WIDTH": 27, "CHANNELS": 256, "HALF": 2, "THREE_QUARTERS": True, "STAGE": 2}
    types = {**_NUMBERS, **dict.fromkeys(("x_ptr", "grad_ptr", "out_ptr"), "*bf16"), "products_ptr": "*fp32"}
    tile = {key: value for key, value in fused.tile_of(128).items() if key != "MAPS"}
    results["same map, 9.0"] = compiled(fused_same_map._same_map, types, {**geometry, **tile}, 90)
    numbers = dict.fromkeys(("images", "image_side", "mean_side", "size", "blocks"), "i32")
    pointers = {name: "*i64" for name in fused_input._input.arg_names if re.search("(rows|columns)_ptr", name)}
    types = {"images_ptr": "*u8", "mean_ptr": "*fp32", "mirror_ptr": "*i1", "shift_ptr": "*fp32", "out_ptr": "*bf16"}
    constants = {"CHANNELS": 3, "FOLD": 4, "STORED": 48, "NOISE": True, "MIRROR_MEAN": True, "WIDTH": 64, "DEPTH": 64}
    found = compiled(fused_input._input, {**numbers, **pointers, **types, "scale": "fp32"}, constants, 90)
    results["input, 9.0"] = found
    print(json.dumps(results))


if __name__ == "__main__":
    main()
