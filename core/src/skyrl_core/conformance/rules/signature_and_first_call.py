"""Rule ``signature``: the class declares its name, parameters and versions, and a first call works."""

from skyrl_core.conformance.batches import ExampleBatch
from skyrl_core.conformance.loss_call import call_loss, ready_batch
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.contract.policy_loss import LOSS_API_VERSION, Need, PolicyLoss, is_scalar_form
from skyrl_core.errors import UndeclaredInputError
from skyrl_core.parameters.loss_params import LossParams


def check_signature(loss: PolicyLoss, batch: ExampleBatch) -> list[str]:
    """Check the class attributes and ``needs``, then call the loss once."""
    if is_scalar_form(type(loss)):
        if type(loss).compute_loss is PolicyLoss.compute_loss:
            raise Violation(f"{type(loss).__name__} overrides neither token_losses nor compute_loss")
    else:
        _check_attributes(loss)
    needs = loss.needs(loss.params)
    if not isinstance(needs, (set, frozenset)) or not all(isinstance(need, Need) for need in needs):
        raise Violation(f"needs(params) returned {needs!r}", remedy="return a frozenset of Need members")
    try:
        call_loss(loss, ready_batch(loss, batch))
    except UndeclaredInputError:
        return []  # declared_needs reports it
    except Exception as error:
        if not is_scalar_form(type(loss)):
            raise
        # A scalar loss that lacks an input may raise anything. If it works with every input, declared_needs reports it.
        try:
            call_loss(loss, ready_batch(loss, batch, frozenset(Need)))
        except Exception:  # noqa: BLE001 - the inputs are not the cause: report the first error
            raise error from None
    return []


def _check_attributes(loss: PolicyLoss) -> None:
    cls = type(loss)
    for name in ("name", "Params", "api_version", "semantics_version"):
        if name not in vars(cls):
            raise Violation(f"class {cls.__name__} does not declare `{name}` in its body")
    if cls.api_version != LOSS_API_VERSION:
        raise Violation(
            f"api_version is {cls.api_version!r}; this skyrl-core implements contract version {LOSS_API_VERSION}",
            remedy="install the version of skyrl-core that the loss was written for, or port the loss",
        )
    if not isinstance(cls.semantics_version, int) or not cls.name:
        raise Violation(f"name is {cls.name!r}, semantics_version is {cls.semantics_version!r}")
    if not (isinstance(cls.Params, type) and issubclass(cls.Params, LossParams)):
        raise Violation(f"Params is {cls.Params!r}", remedy="make Params a subclass of LossParams")
    if not isinstance(loss.params, cls.Params):
        raise Violation(
            f"loss.params is a {type(loss.params).__name__}, not a {cls.Params.__name__}",
            remedy="pass the params to the base class: super().__init__(params)",
        )


SIGNATURE = Rule(
    name="signature",
    explanation="the class declares its name, parameters and versions, and a first call works",
    remedy="declare name, Params, api_version = 1 and semantics_version = 1 in the class body, and override "
    "token_losses(batch) or compute_loss(log_probs, old_log_probs, advantages, masks, **kwargs)",
    counterexample="a class that inherits its api_version; needs that returns a list; an exception in the first call",
    check=check_signature,
    gate=True,
    waivable=False,
)
