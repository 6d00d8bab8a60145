"""Options that are passed to DeepSpeed: checked against its schema, and used."""

import pytest

from skyrl_core.errors import InvalidParamsError
from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.trainer_engine.deepspeed_options import SET_BY_TRAINER, check_extra
from skyrl_train.trainer_engine.zero import _deepspeed_config


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"zero_optimisation": {}}, "did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"reduce_bucket_sise": 1}}, "DeepSpeed has no such option; did you mean 'reduce_bucket"),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "greater than 0"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "zero_optimization.reduce_bucket_size = 'auto'"),
        ({"zero_optimization": {"stage": 3}}, "the trainer sets it; use trainer.deepspeed.zero_stage"),
        ({"zero_optimization": 3}, "must be a section of options"),
        ({"train_batch_size": 8}, "use trainer.prompts_per_step"),
        ({"bf16": {"enabled": True}}, "use trainer.deepspeed.precision"),
        ({"wall_clock_breakdown": "yes"}, "must be true or false"),
        ({"gradient_predivide_factor": 0}, "must be a number from 0.001 to 1000000"),
        ({"communication_data_type": "int8"}, "must be fp16, bf16 or fp32"),
    ],
)
def test_an_option_that_deepspeed_does_not_accept_is_an_error(extra, message):
    with pytest.raises(InvalidParamsError) as caught:
        check_extra(extra)
    assert message in str(caught.value)
    assert caught.value.exit_code == 4
    assert "trainer.deepspeed.extra." in str(caught.value)


def test_every_problem_is_listed_and_valid_options_pass():
    check_extra({"zero_optimization": {"reduce_bucket_size": 1e6, "overlap_comm": True}, "dump_state": False})
    with pytest.raises(InvalidParamsError) as caught:
        check_extra({"x": 1, "zero_optimization": {"y": 1, "stage": 1}})
    assert len(caught.value.problems) == 3


def test_valid_options_reach_deepspeed_and_keys_of_the_trainer_cannot_be_replaced():
    extra = {"wall_clock_breakdown": True, "zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 10}}
    made = _deepspeed_config(DeepSpeedConfig(extra=extra), OptimizerConfig(), False)
    assert made["wall_clock_breakdown"] is True
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 10}
    assert extra["zero_optimization"] == {"overlap_comm": True, "reduce_bucket_size": 10}
    free = {"steps_per_print", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization"}
    assert set(made) - free - {"wall_clock_breakdown"} <= set(SET_BY_TRAINER)
