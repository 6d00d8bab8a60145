"""The options of rollouts and evaluations. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from skyrl_train.config.bounded import (
    BatchSize,
    EvaluationTemperature,
    Nats,
    NonNegativeInt,
    PositiveInt,
    Temperature,
)
from skyrl_train.config.section import EVERY, Section
from skyrl_train.config.vllm_schema import Fraction, ServerConfig, VllmConfig

Share = Annotated[float, Field(ge=0, le=1)]
StopStrings = tuple[Annotated[str, Field(min_length=1)], ...]


class RolloutConfig(Section):
    """How samples are generated."""

    free_on_resume = frozenset({"max_prompt_tokens", "batch_size", "probe", "probe_tolerance"})

    engine: str = Field(default="hf", description="The rollout engine, by entry-point name.")
    async_: Literal["none", "one_step"] = Field(
        default="none",
        alias="async",
        description="one_step samples the next batch while this one trains, with the weights from before the update; "
        "use it with vllm_server and off-policy correction.",
    )
    max_new_tokens: PositiveInt = Field(default=256, description="Longest response, in tokens.")
    max_prompt_tokens: PositiveInt = Field(default=1024, description="A longer prompt is an error that names its row.")
    temperature: Temperature = Field(default=1.0, description="Sampling temperature; log-probs include it.")
    top_p: Fraction = Field(default=1.0, description="Nucleus sampling; the trainer's log-probs cover the same tokens.")
    batch_size: PositiveInt = Field(default=256, description="Sequences that the rollout engine hf decodes together.")
    probe: bool = Field(
        default=True,
        description="Compare log-probs of rollout engine and trainer at the start and after each weight sync; stop if "
        "they differ.",
    )
    probe_tolerance: Nats | None = Field(
        default=None, description="Mean difference allowed, in nats; null takes 1e-3 in fp32 and 5e-2 in bf16."
    )
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="The rollout engine vllm.")
    server: ServerConfig = Field(default_factory=ServerConfig, description="The rollout engine vllm_server.")
    top_k: PositiveInt | None = Field(
        default=None,
        description="Sample from this many of the most probable tokens; null takes all. The trainer's log-probs cover "
        "the same tokens.",
    )
    min_p: Share = Field(
        default=0.0,
        description="Sample from tokens of at least this share of the largest probability; the trainer's log-probs "
        "cover the same tokens.",
    )
    stop: StopStrings = Field(
        default=(), description="Strings that end a response; the reward sees the text before the first one."
    )
    skip_special_tokens: bool = Field(
        default=True,
        description="Leave special tokens, such as <tool_call>, out of the text that rewards see. The end token "
        "never is in it.",
    )

    @property
    def truncates(self) -> bool:
        """Whether sampling leaves out tokens."""
        return self.top_p < 1 or self.top_k is not None or self.min_p > 0


class EvaluationConfig(Section):
    """How progress on held-out prompts is measured."""

    noted_on_resume = EVERY

    every: NonNegativeInt = Field(
        default=0, description="Steps between evaluations; 0 evaluates only before and after training."
    )
    prompts: NonNegativeInt = Field(default=200, description="Number of held-out prompts; 0 never evaluates.")
    samples_per_prompt: BatchSize = Field(default=1, description="Samples of each prompt: k of pass@k.")
    temperature: EvaluationTemperature = Field(default=1.0, description="Sampling temperature; 0 is greedy.")
    top_p: Fraction | None = Field(default=None, description="Nucleus sampling; null takes rollout.top_p.")
    top_k: NonNegativeInt | None = Field(
        default=None, description="Most probable tokens to sample from; 0 takes all, null takes rollout.top_k."
    )
    min_p: Share | None = Field(
        default=None, description="Smallest share of the largest probability; null takes rollout.min_p."
    )
    max_new_tokens: PositiveInt | None = Field(
        default=None, description="Longest answer, in tokens; null takes rollout.max_new_tokens."
    )
    stop: StopStrings | None = Field(
        default=None, description="Strings that end an answer, [] for none; null takes rollout.stop."
    )
