"""The Triton kernels: results in Triton's interpreter, and compilation for GPUs; no test needs a GPU."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch

from skyrl_train.policy.log_probs import tiled_log_probs
from skyrl_train.policy.log_probs.tile_passes import GradientInputs, Sums, TorchPasses
from skyrl_train.policy.log_probs.tiled_log_probs import passes_for, token_statistics

pytest.importorskip("triton", reason="Triton is not installed; `nox -s triton` has it")
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="kernels run without a GPU only with TRITON_INTERPRET=1"
)

N, H, V = 7, 5, 70


@pytest.fixture
def kernels(monkeypatch):
    from skyrl_train.policy.log_probs import triton_kernels

    monkeypatch.setattr(triton_kernels, "BLOCK", 16)  # several blocks in a row, the last one not full
    return triton_kernels.TritonPasses()


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


def oracle(hidden, weight, token_ids, temperature, coefficients):
    """Values and gradients from materialised float64 logits and torch.distributions."""
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    values = distribution.log_prob(token_ids), distribution.entropy()
    loss = (values[0] * coefficients[0]).sum() + (values[1] * coefficients[1]).sum()
    return *values, *torch.autograd.grad(loss, (hidden, weight))


@interpreted
@pytest.mark.parametrize("tile", [12, 60, 2**20], ids=["narrow", "ragged", "complete"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_values_and_gradients_match_materialised_float64_logits(kernels, tile, share, monkeypatch):
    monkeypatch.setitem(tiled_log_probs.TILE, "cpu", tile)
    monkeypatch.setattr(tiled_log_probs, "KEPT_SHARE", share)
    monkeypatch.setattr(tiled_log_probs, "KEPT_MIN_BYTES", 0)
    hidden, weight, ids = inputs()
    coefficients = torch.stack([torch.linspace(-1, 2, N), torch.linspace(1, -0.5, N)])
    expected = oracle(hidden, weight, ids, 0.7, coefficients.double())
    values = token_statistics(hidden, weight, ids, temperature=0.7, chunk_size=3, with_entropy=True, passes=kernels)
    loss = (torch.stack(values) * coefficients).sum()
    for got, wanted in zip((*values, *torch.autograd.grad(loss, (hidden, weight))), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_each_pass_matches_the_torch_pass(kernels, dtype, with_entropy):
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(N, 2 * V, generator=generator)).to(dtype)
    ids = torch.tensor([0, 69, 70, 139, 71, 3, 128])  # first and last column of both tiles
    triton_sums, torch_sums = (Sums.initial(N, logits, with_entropy) for _ in range(2))
    for start in (0, V):
        for passes, sums in ((kernels, triton_sums), (TorchPasses(), torch_sums)):
            passes.add(sums, logits[:, start : start + V], ids - start, 1.25)
    torch.testing.assert_close(triton_sums, torch_sums, rtol=1e-5, atol=1e-5)
    vectors = torch.randn(2, N, generator=generator)
    entropy_grad = vectors[1] if with_entropy else None
    gradient_inputs = GradientInputs(torch_sums.log_norm(), torch_sums.entropy(), vectors[0], entropy_grad)
    expected = TorchPasses().gradient(logits[:, V:].clone(), ids - V, gradient_inputs, 1.25)
    found = kernels.gradient(logits[:, V:].clone(), ids - V, gradient_inputs, 1.25)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(found, expected)


@interpreted
def test_extreme_logits_stay_finite(kernels):
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    values = token_statistics(hidden, weight, torch.zeros(3, dtype=torch.long), with_entropy=True, passes=kernels)
    # All probability on the token; all on another one, 20 000 nats away; uniform over three.
    torch.testing.assert_close(values.log_probs, torch.tensor([0.0, -2e4, -1.0986123]))
    torch.testing.assert_close(values.entropy, torch.tensor([0.0, 0.0, 1.0986123]))
    (values.log_probs.sum() + values.entropy.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_a_cpu_uses_the_torch_passes():
    assert isinstance(passes_for(torch.zeros(1)), TorchPasses)


COMPILE = """
import itertools, json, pathlib, subprocess, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from skyrl_train.policy.log_probs import triton_kernels

programs = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin"
binary = pathlib.Path(sys.argv[1])
usage = {}
for kernel, logits, capability, with_entropy, aligned in itertools.product(*json.loads(sys.argv[2])):
    function = getattr(triton_kernels, kernel)
    constants = {"WITH_ENTROPY": with_entropy, "BLOCK": triton_kernels.BLOCK}
    types = {"logits_pointer": "*" + logits, "row_stride": "i32", "columns_pointer": "*i64", "width": "i32"}
    types |= {"scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in function.arg_names}
    # At launch Triton checks arguments for divisibility by 16; if they are, it loads several elements at once.
    multiples = ["logits_pointer", "row_stride", "width"] if aligned else []
    attributes = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in multiples}
    source = ASTSource(function, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": triton_kernels.WARPS})
    binary.write_bytes(compiled.asm["cubin"])
    dump = [programs / "cuobjdump", "-res-usage", binary]
    usage[str((kernel, logits, capability, with_entropy, aligned))] = subprocess.check_output(dump, text=True)
print(json.dumps(usage))
"""
VARIANTS = [["_add", "_gradient"], ["fp32", "bf16", "fp16"], [80, 90], [False, True], [False, True]]


@pytest.fixture(scope="module")
def resource_usage(tmp_path_factory):
    """The output of NVIDIA's cuobjdump for each compiled variant."""
    folder = tmp_path_factory.mktemp("compiled")
    # A separate process, because TRITON_INTERPRET replaces the compiler with the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    command = [sys.executable, "-c", COMPILE, str(folder / "kernel.cubin"), json.dumps(VARIANTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("variant", list(itertools.product(*VARIANTS)), ids=lambda v: "-".join(map(str, v)))
def test_the_kernels_compile_for_gpus_without_spilling_registers(variant, resource_usage):
    usage = resource_usage[str(variant)]
    assert f"Function {variant[0]}" in usage
    # A spilled register would be on the stack, which is local memory.
    assert "STACK:0 " in usage
    assert "LOCAL:0 " in usage
