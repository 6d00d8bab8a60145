"""The rules of the loss contract, one file per rule, in the order in which they are checked.

=====================  ======================================================  ===========================
rule                   demands that                                            file
=====================  ======================================================  ===========================
signature              the class declares what it is, and a first call works   signature_and_first_call.py
declared_needs         the loss reads exactly the inputs that it declares      declared_needs.py
inputs_not_mutated     the inputs are not written to                           inputs_not_mutated.py
shape_dtype            one loss per token comes back, with a gradient          shape_dtype.py
deterministic          the same batch gives the same result, bit for bit       deterministic.py
process_settings       settings of the process are neither used nor changed    process_settings.py
finite                 loss and gradient are finite, also on extreme batches   finite_values.py
masked_tokens          masked tokens have no influence                         masked_tokens.py
partition_invariance   micro-batches and ranks add up to the full batch        partition_invariance.py
gradient_sign          a step makes good tokens likelier, bad ones less so     gradient_sign.py
gradient               autograd gives the derivative of the loss value         gradient_matches_value.py
inputs_steer           costly inputs change the gradient, not only the loss    inputs_steer_gradient.py
term_signs             penalties pull, and entropy bonuses raise the entropy   term_signs.py
no_gradient_to_inputs  gradient flows only to log_probs and entropy            no_gradient_to_inputs.py
sampled_entropy        an entropy bonus works the same way on every policy     sampled_entropy.py
precision              the loss works in float64, float32 and bfloat16         precision.py
long_sequences         32,768 tokens in one sequence are exact and cheap       long_sequences.py
device                 the loss works on the device of its inputs              device.py
parameter_bounds       every value that the schema admits gives a finite loss  parameter_bounds.py
parameters             every parameter has an effect                           parameters_have_effect.py
no_host_sync           token_losses never waits for the device                 no_host_sync.py
pickles                another process can import the class                    pickles.py
state                  what changes over steps is saved and restored           state_is_restored.py
=====================  ======================================================  ===========================
"""

from skyrl_core.conformance.rule import Rule
from skyrl_core.conformance.rules.declared_needs import DECLARED_NEEDS
from skyrl_core.conformance.rules.deterministic import DETERMINISTIC
from skyrl_core.conformance.rules.device import DEVICE
from skyrl_core.conformance.rules.finite_values import FINITE
from skyrl_core.conformance.rules.gradient_matches_value import GRADIENT
from skyrl_core.conformance.rules.gradient_sign import GRADIENT_SIGN
from skyrl_core.conformance.rules.inputs_not_mutated import INPUTS_NOT_MUTATED
from skyrl_core.conformance.rules.inputs_steer_gradient import INPUTS_STEER
from skyrl_core.conformance.rules.long_sequences import LONG_SEQUENCES
from skyrl_core.conformance.rules.masked_tokens import MASKED_TOKENS
from skyrl_core.conformance.rules.no_gradient_to_inputs import NO_GRADIENT_TO_INPUTS
from skyrl_core.conformance.rules.no_host_sync import NO_HOST_SYNC
from skyrl_core.conformance.rules.parameter_bounds import PARAMETER_BOUNDS
from skyrl_core.conformance.rules.parameters_have_effect import PARAMETERS
from skyrl_core.conformance.rules.partition_invariance import PARTITION_INVARIANCE
from skyrl_core.conformance.rules.pickles import PICKLES
from skyrl_core.conformance.rules.precision import PRECISION
from skyrl_core.conformance.rules.process_settings import PROCESS_SETTINGS
from skyrl_core.conformance.rules.sampled_entropy import SAMPLED_ENTROPY
from skyrl_core.conformance.rules.shape_dtype import SHAPE_DTYPE
from skyrl_core.conformance.rules.signature_and_first_call import SIGNATURE
from skyrl_core.conformance.rules.state_is_restored import STATE
from skyrl_core.conformance.rules.term_signs import TERM_SIGNS

RULES: tuple[Rule, ...] = (
    SIGNATURE,
    DECLARED_NEEDS,
    INPUTS_NOT_MUTATED,
    SHAPE_DTYPE,
    DETERMINISTIC,
    PROCESS_SETTINGS,
    FINITE,
    MASKED_TOKENS,
    PARTITION_INVARIANCE,
    GRADIENT_SIGN,
    GRADIENT,
    INPUTS_STEER,
    TERM_SIGNS,
    NO_GRADIENT_TO_INPUTS,
    SAMPLED_ENTROPY,
    PRECISION,
    LONG_SEQUENCES,
    DEVICE,
    PARAMETER_BOUNDS,
    PARAMETERS,
    NO_HOST_SYNC,
    PICKLES,
    STATE,
)
