"""The options of the model, its optimizer and DeepSpeed. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field

from skyrl_train.config.bounded import GradientNorm, LearningRate, NonNegativeInt, WeightDecay
from skyrl_train.config.section import Section

DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    noted_on_resume = frozenset({"fused"})

    learning_rate: LearningRate = Field(
        default=1e-6, description="Peak learning rate, or its schedule over optimizer steps."
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="Learning rate after the warm-up: constant, or falling to 0 at the last step."
    )
    warmup_steps: NonNegativeInt = Field(default=0, description="Optimizer steps of linear warm-up.")
    betas: tuple[DecayRate, DecayRate] = Field(default=(0.9, 0.95), description="AdamW's moment decay rates.")
    weight_decay: WeightDecay = Field(default=0.0, description="AdamW's decoupled weight decay.")
    max_grad_norm: GradientNorm | None = Field(default=1.0, description="Gradient norm clip; null does not clip.")
    kind: Literal["adamw", "adamw_8bit"] = Field(
        default="adamw",
        description="adamw_8bit stores AdamW's moments in 8 bits; needs the extra `skyrl-train[8bit]`.",
    )
    fused: bool = Field(
        default=False, description="Use torch's fused AdamW, one kernel for each step; kind adamw only."
    )


class DeepSpeedConfig(Section):
    """How DeepSpeed shards the optimizer, the gradients and the model."""

    # Stage and precision are compared with those of the checkpoint.
    free_on_resume = frozenset({"zero_stage", "precision", "offload_optimizer", "gradient_checkpointing"})
    noted_on_resume = frozenset({"extra"})

    zero_stage: Literal[0, 1, 2, 3] = Field(default=2, description="ZeRO stage.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Type of the weights in forward and backward."
    )
    offload_optimizer: bool = Field(default=False, description="Keep optimizer state in CPU memory (stages 1 to 3).")
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations in the backward pass.")
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="Other options of DeepSpeed's configuration, such as {zero_optimization: {reduce_bucket_size: "
        "50000000}}; checked against DeepSpeed's schema. Those that the trainer sets are refused.",
    )


class ModelOptions(Section):
    """How the model is loaded."""

    free_on_resume = frozenset({"dtype", "trust_remote_code"})
    noted_on_resume = frozenset({"attention"})

    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a hub model and its tokenizer; null takes the main branch."
    )
    dtype: Literal["fp32", "bf16"] | None = Field(
        default=None,
        description="Type of the weights; must equal trainer.deepspeed.precision, which null takes.",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = Field(
        default=None,
        description="Attention implementation of transformers; null takes sdpa if the model has it. Prompts are "
        "shared with sdpa only.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run the Python code that comes with the model and its tokenizer, for a model that transformers "
        "does not support without it. Read that code first: it can do anything that you can do.",
    )
