"""Base class of the parameters of an advantage estimator. Imports no torch."""

from skyrl_core.parameters.loss_params import LossParams


class EstimatorParams(LossParams):
    """Base class of the parameter schemas of advantage estimators; a subclass of LossParams works, too."""

    def smallest_group(self) -> int:
        """The samples that a prompt needs for an advantage other than 0; a run with fewer is refused early."""
        return 1


def smallest_group(params: LossParams) -> int:
    """The samples that a prompt needs with these parameters; 1 if their schema does not say."""
    return params.smallest_group() if isinstance(params, EstimatorParams) else 1
