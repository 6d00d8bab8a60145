"""An engine of training without DeepSpeed."""

import copy

import torch

from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.training.ranks import Ranks


class PlainEngine:
    """Stands in for ZeroEngine where DeepSpeed is not the point: autograd, and gradients averaged over ranks."""

    def __init__(self, model: torch.nn.Module, ranks: Ranks) -> None:
        self.policy = Policy(copy.deepcopy(model), chunk_size=64, temperature=1.0)
        self.ranks = ranks
        self.calls: list[str] = []
        self.gradient: dict[str, torch.Tensor] = {}

    def forward(self, sequences: Sequences, *, with_entropy: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.calls.append("forward" if torch.is_grad_enabled() else "score")
        return self.policy.score(sequences, with_entropy)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self.calls.append("last backward" if last else "backward")
        loss.backward()

    def step(self, learning_rate: float) -> float:
        self.calls.append("step")
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                self.gradient[name] = self.ranks.sum(own) / self.ranks.world_size
                parameter -= learning_rate * self.gradient[name]
                parameter.grad = None
        return float(torch.cat([gradient.flatten() for gradient in self.gradient.values()]).norm())
