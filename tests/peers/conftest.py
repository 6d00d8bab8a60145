"""The released peers, each in a separate folder and process, and our side of each comparison."""

import contextlib
import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skyrl_core.contract.advantage_estimator import AdvantageBatch
from skyrl_core.contract.loss_value import evaluate_loss
from skyrl_core.contract.policy_loss import LossBatch, Need
from skyrl_core.contract.reduction import count_batch, token_weights
from skyrl_core.registry.estimator_registry import load_advantage_estimator
from skyrl_core.registry.loss_registry import load_policy_loss

HERE = Path(__file__).parent
FOLDER = "SKYRL_PEERS"


class PeerError(Exception):
    """The exception of the peer's code, as text."""


class Peer:
    """A process that calls one peer's functions; `python worker/serve.py NAME` runs on the other side."""

    def __init__(self, name: str, folder: Path, log: Path, *more: Path) -> None:
        self.log = log
        path = os.pathsep.join(str(part) for part in (folder, HERE / "stand_ins", *more))
        # Offline, so that nothing contacts a hub, and one thread, because the tensors are tiny.
        settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(HERE / "worker/serve.py"), name, str(folder)]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **settings},
            )

    def __call__(self, function: str, **arguments: Any) -> Any:
        buffer = io.BytesIO()
        torch.save({"function": function, "arguments": arguments}, buffer)
        # If the process has exited, its log has the reason; a broken pipe has none.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
            self.process.stdin.flush()
        header = self.process.stdout.read(8)
        assert header, f"the process of the peer exited:\n{self.log.read_text()}"
        reply = torch.load(io.BytesIO(self.process.stdout.read(*struct.unpack("<Q", header))), weights_only=True)
        if "error" in reply:
            raise PeerError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def start_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Peer]]:
    """Start a peer by name, with more folders on its path if given."""
    if FOLDER not in os.environ:
        pytest.skip(f"the peers are not installed: run `nox -s peers`, which sets {FOLDER}")
    started = []

    def start(name: str, *more: Path) -> Peer:
        folder = Path(os.environ[FOLDER], name)
        assert folder.is_dir(), f"{FOLDER} has no folder {name}"
        started.append(Peer(name, folder, tmp_path_factory.mktemp(name) / "stderr", *more))
        return started[-1]

    yield start
    for peer in started:
        peer.close()


@pytest.fixture(scope="session")
def trl(start_peer: Callable[..., Peer]) -> Peer:
    """TRL 1.16.0."""
    return start_peer("trl")


@pytest.fixture(scope="session")
def verl(start_peer: Callable[..., Peer]) -> Peer:
    """verl 0.9.1."""
    return start_peer("verl")


@pytest.fixture(scope="session")
def skyrl(start_peer: Callable[..., Peer]) -> Peer:
    """SkyRL 0.3.0."""
    return start_peer("skyrl")


@pytest.fixture
def peer_error() -> type[PeerError]:
    return PeerError


@dataclass(frozen=True)
class Sample:
    """A batch of B sequences and T tokens, float64."""

    log_probs: Tensor
    old_log_probs: Tensor
    rollout_log_probs: Tensor
    ref_log_probs: Tensor
    advantages: Tensor  # [B, T]
    mask: Tensor
    groups: Tensor  # [B]

    @property
    def policy(self) -> dict[str, Tensor]:
        """The inputs of every loss of every peer."""
        return {name: getattr(self, name) for name in ("log_probs", "old_log_probs", "advantages", "mask")}

    def rows(self, start: int, stop: int) -> "Sample":
        return Sample(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))

    def but(self, **fields: Tensor) -> "Sample":
        return replace(self, **fields)


@pytest.fixture
def sample() -> Sample:
    """Ragged lengths with gaps; ratios from far below to far above every clip; an advantage for each token."""
    generator = torch.Generator().manual_seed(7)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(6, 7, generator=generator, dtype=torch.float64)

    old = -(torch.rand(6, 7, generator=generator, dtype=torch.float64) * 2 + 0.4)
    mask = torch.arange(7) < torch.tensor([5, 1, 7, 3, 7, 2])[:, None]
    mask[2, 3] = mask[4, 1] = False
    return Sample(
        log_probs=(old + normal(0.6)).clamp(max=-0.01),
        old_log_probs=old,
        rollout_log_probs=(old + normal(0.4)).clamp(max=-0.01),
        ref_log_probs=(old + normal(0.5)).clamp(max=-0.01),
        advantages=normal(1.0),
        mask=mask,
        groups=torch.tensor([0, 0, 1, 1, 2, 2]),
    )


@pytest.fixture
def outcome_sample(sample: Sample) -> Sample:
    """The same with one advantage for all tokens of a sequence."""
    return sample.but(advantages=sample.advantages[:, :1].expand_as(sample.mask).contiguous())


@pytest.fixture
def tokens() -> Callable[..., Sample]:
    """A batch from ratios [B, T] of the policy to all others; None is a masked slot; A is 1 unless given."""

    def build(ratios: list[list[float | None]], advantages: float | list[float] = 1.0, old: float = -1.0) -> Sample:
        mask = torch.tensor([[ratio is not None for ratio in row] for row in ratios])
        ratio = torch.tensor([[1.0 if r is None else r for r in row] for row in ratios], dtype=torch.float64)
        anchor = torch.full_like(ratio, old)
        of_sequence = torch.as_tensor(advantages, dtype=torch.float64).expand(len(ratios))
        return Sample(
            log_probs=anchor + ratio.log(),
            old_log_probs=anchor,
            rollout_log_probs=anchor,
            ref_log_probs=anchor,
            advantages=of_sequence[:, None].expand_as(ratio).contiguous(),
            mask=mask,
            groups=torch.zeros(len(ratios), dtype=torch.int64),
        )

    return build


@pytest.fixture
def ours() -> Callable[..., dict[str, Any]]:
    """The value and gradient of our loss."""

    def loss_and_gradient(name: str, sample: Sample, params: dict[str, Any] | None = None, **settings: Any):
        log_probs = sample.log_probs.clone().requires_grad_()
        loss = load_policy_loss(name, params or {}).compute_loss(
            log_probs,
            sample.old_log_probs,
            sample.advantages,
            sample.mask,
            rollout_log_probs=sample.rollout_log_probs,
            groups=sample.groups,
            **settings,
        )
        loss.backward()
        return {"loss": loss.item(), "gradient": log_probs.grad}

    return loss_and_gradient


@pytest.fixture
def ours_in_parts() -> Callable[..., dict[str, Any]]:
    """The same over micro-batches of this many rows, added up as in one optimizer step."""

    def loss_and_gradient(name: str, sample: Sample, rows: int, params: dict[str, Any] | None = None):
        loss = load_policy_loss(name, params or {})
        counts = count_batch(sample.mask)
        weights = token_weights(sample.mask, loss.default_reduction, counts, dtype=torch.float64)
        log_probs = sample.log_probs.clone().requires_grad_()

        def batch_of(part: slice) -> LossBatch:
            return LossBatch(
                log_probs=log_probs[part],
                advantages=sample.advantages[part],
                mask=sample.mask[part],
                inputs={Need.OLD_LOG_PROBS: sample.old_log_probs[part]},
                needs=loss.needs(loss.params),
            )

        with torch.no_grad():
            prepared = loss.prepare(batch_of(slice(None)))
        total = 0.0
        for start in range(0, len(sample.mask), rows):
            part = torch.arange(start, start + rows)
            batch = batch_of(slice(start, start + rows))
            batch.prepared = prepared.part(part, sample.mask.shape[1])
            output = evaluate_loss(loss, batch, weights[part], batch.mask.sum() / counts.tokens)
            output.total.backward()
            total += output.total.item()
        return {"loss": total, "gradient": log_probs.grad}

    return loss_and_gradient


@pytest.fixture
def our_advantages() -> Callable[..., Tensor]:
    """Our estimate for every token, 0 where masked: [N, T]."""

    def estimate(name: str, rewards: Tensor, groups: Tensor, mask: Tensor, params=None, **fields: Any) -> Tensor:
        estimator = load_advantage_estimator(name, params or {})
        advantages = estimator.estimate(AdvantageBatch(rewards=rewards, groups=groups, mask=mask, **fields))
        advantages = advantages if advantages.ndim == 2 else advantages[:, None].expand_as(mask)
        return torch.where(mask, advantages, 0.0)

    return estimate


@pytest.fixture
def at_the_end() -> Callable[[Tensor, Tensor], Tensor]:
    """The rewards in the form of the peers: [N, T], at the last token of each sample."""

    def place(rewards: Tensor, mask: Tensor) -> Tensor:
        last = torch.where(mask, torch.arange(mask.shape[1]), 0).amax(-1, keepdim=True)
        return torch.zeros(mask.shape, dtype=rewards.dtype).scatter(1, last, rewards[:, None])

    return place


@pytest.fixture
def agree() -> Callable[..., None]:
    """Values and gradients are the same, relative to the larger of the two and 1."""

    def check(theirs: dict[str, Any], ours: dict[str, Any], tolerance: float, *, value: bool = True) -> None:
        assert theirs["gradient"].abs().max() > 1e-3, "a gradient of zero would agree with anything"
        torch.testing.assert_close(theirs["gradient"], ours["gradient"], rtol=tolerance, atol=tolerance)
        if value:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=tolerance, abs=tolerance)

    return check


@pytest.fixture
def expected_kl_gradient() -> Callable[..., dict[str, Tensor]]:
    """Exact gradients to the logits of a small vocabulary: of a KL loss on samples, and of both true KLs."""

    def gradients(kl: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        logits = torch.tensor([0.5, -0.3, 0.1, 0.9], dtype=torch.float64, requires_grad=True)
        reference = torch.log_softmax(torch.tensor([-0.2, 0.4, 0.3, -0.1], dtype=torch.float64), 0)
        policy = torch.log_softmax(logits, 0)
        # The sum over the vocabulary of pi(i) d kl_i / d log pi(i) · grad log pi(i): sampling without noise.
        weights = policy.exp().detach() * kl(policy.detach(), reference)
        estimate = (weights * policy).sum()
        reverse = (policy.exp() * (policy - reference)).sum()
        forward = (reference.exp() * (reference - policy)).sum()
        terms = {"estimate": estimate, "reverse": reverse, "forward": forward}
        return {name: torch.autograd.grad(term, logits, retain_graph=True)[0] for name, term in terms.items()}

    return gradients
