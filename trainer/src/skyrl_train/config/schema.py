"""Every option of a run, as pydantic models that reject unknown keys. Imports no torch."""

from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    field_validator,
)

from skyrl_core.parameters import KlEstimator, LossReduction, OffPolicyOptions
from skyrl_train.config.bounded import (
    AdapterSize,
    BatchSize,
    Coefficient,
    NonNegativeInt,
    PositiveInt,
    Processes,
    RewardWeight,
    Seconds,
    Seed,
)
from skyrl_train.config.data_schema import DataConfig
from skyrl_train.config.lookups import PathText
from skyrl_train.config.model_schema import DeepSpeedConfig as DeepSpeedConfig
from skyrl_train.config.model_schema import ModelOptions as ModelOptions
from skyrl_train.config.model_schema import OptimizerConfig as OptimizerConfig
from skyrl_train.config.rollout_schema import EvaluationConfig as EvaluationConfig
from skyrl_train.config.rollout_schema import RolloutConfig as RolloutConfig
from skyrl_train.config.section import EVERY, Section
from skyrl_train.config.vllm_schema import Fraction


class OffPolicyConfig(OffPolicyOptions, Section):
    """Weights for the difference between rollout engine and trainer; docs/ALGORITHMS.md has the formulas."""


class AlgorithmConfig(Section):
    """The objective. The parameters of a loss or an estimator go into the block with its name."""

    # The loss is compared by its identity.
    free_on_resume = frozenset({"policy_loss_type", "skip_zero_advantages"})

    model_config = ConfigDict(extra="allow")

    policy_loss_type: str = Field(default="dual_clip", description="The loss: a name from `skyrl losses list`.")
    loss_reduction: LossReduction | None = Field(
        default=None, description="How token losses are reduced to one number; null takes the default of the loss."
    )
    max_length: PositiveInt | None = Field(
        default=None, description="The divisor L of sequence_sum_norm; null takes rollout.max_new_tokens."
    )
    advantage_estimator: str = Field(default="grpo", description="The advantage estimator, by entry-point name.")
    kl_coef: Coefficient = Field(
        default=0.0, description="Weight of the KL to the reference model in the loss; 0 loads no reference model."
    )
    kl_estimator: KlEstimator = Field(
        default="k2", description="KL estimator in the loss; k2 has the gradient of the reverse KL, k3 of the forward."
    )
    kl_reward_coef: Coefficient = Field(
        default=0.0, description="Weight of the KL to the reference model that is subtracted from the reward."
    )
    kl_reward_estimator: KlEstimator = Field(
        default="k1", description="KL estimator in the reward; k1 is unbiased in the reward."
    )
    entropy_coef: Coefficient = Field(
        default=0.0, description="Weight of a bonus for the exact entropy of the policy, per nat, added to any loss."
    )
    high_entropy_fraction: Fraction | None = Field(
        default=None,
        description="Apply the loss only to this share of a minibatch's tokens, those of highest entropy; "
        "null takes all.",
    )
    skip_zero_advantages: bool = Field(
        default=False,
        description="Skip sequences whose advantages are all 0, such as groups of equal rewards, in the update's "
        "forward and backward pass. The step stays the same; an error if another term gives them a gradient.",
    )
    off_policy: OffPolicyConfig = Field(
        default_factory=lambda: OffPolicyConfig(), description="Weights for samples that another policy generated."
    )


class LoraConfig(Section):
    """LoRA: train small adapters instead of all weights; needs the extra `skyrl-train[lora]`."""

    # Compared with the adapters of the checkpoint.
    free_on_resume = EVERY

    rank: AdapterSize | None = Field(
        default=None, description="Rank of the adapters; null trains all weights, without adapters."
    )
    alpha: AdapterSize = Field(default=32, description="The output of an adapter is multiplied by alpha / rank.")
    rank_stabilised: bool = Field(
        default=False, description="Multiply by alpha / sqrt(rank) instead (rsLoRA), so that large ranks learn as fast."
    )
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        description="Layers that get an adapter: all-linear (all but the output embedding and fused experts) or a list "
        "of names, such as [q_proj, v_proj].",
    )
    dropout: float = Field(default=0.0, description="Must be 0: the ratio of two random dropout masks is noise.")

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, dropout: float) -> float:
        if dropout:
            raise ValueError("must be 0: the ratio of two random dropout masks is noise, not an update")
        return dropout


class TrainerConfig(Section):
    """Length of the training, and how a step is split into batches."""

    free_on_resume = frozenset(
        {"micro_batch_size", "micro_batch_tokens", "logprob_chunk_size", "share_prompts", "threads"}
    )
    noted_on_resume = frozenset({"steps"})

    steps: PositiveInt = Field(default=100, description="Training steps, each with one batch of samples.")
    prompts_per_step: BatchSize = Field(default=16, description="Prompts in a step, on all ranks together.")
    samples_per_prompt: BatchSize = Field(default=8, description="Samples of each prompt, its group.")
    minibatches: PositiveInt = Field(default=1, description="Optimizer steps that share one pass over the samples.")
    epochs: PositiveInt = Field(default=1, description="Passes over the samples of a step.")
    micro_batch_size: PositiveInt = Field(
        default=32, description="Sequences per forward pass and rank; changes memory and speed, never the result."
    )
    micro_batch_tokens: PositiveInt | None = Field(
        default=None,
        description="Tokens per forward pass and rank, prompts and padding included, instead of micro_batch_size: "
        "as many sequences of similar length as fit, at least one; changes memory and speed, never the result.",
    )
    logprob_chunk_size: PositiveInt = Field(
        default=1024,
        description="Tokens whose logits are in memory at once, for part of the vocabulary; changes memory and speed, "
        "never the result.",
    )
    share_prompts: bool = Field(
        default=True,
        description="Compute a prompt once for all its samples in a micro-batch, and no padding, if the model "
        "supports it and it is no slower; changes memory and speed, never the result.",
    )
    threads: Processes | Literal["auto"] = Field(
        default="auto", description="OpenMP threads of a rank on CPU; auto measures at start."
    )
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig, description="The objective.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="AdamW and its learning rate.")
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig, description="Sharding and precision.")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="Adapters instead of all weights.")


class EnvironmentConfig(Section):
    """The environment that rewards the answers."""

    free_on_resume = frozenset({"deadline", "workers"})
    noted_on_resume = frozenset({"solved_at"})

    name: str = Field(
        default="arithmetic",
        description="The environment of rows that name none: `NAME`, `NAME:TASK`, or a function `(completion, row)` as "
        "`file.py:function` or `package.module:function`.",
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters, checked by the environment's schema.")
    deadline: Seconds = Field(default=10.0, description="Seconds allowed for one reward.")
    workers: Processes = Field(default=1, description="Processes that compute rewards, per rank.")
    weights: dict[str, RewardWeight] = Field(
        default_factory=dict,
        description="Weights of the rewards of an environment that returns several by name; 1 for those without one.",
    )
    solved_at: float | None = Field(
        default=None,
        description="Reward from which an answer counts as solved, for accuracy and pass@k; null asks the environment.",
    )


class CheckpointConfig(Section):
    """When the run is saved."""

    free_on_resume = EVERY

    every: NonNegativeInt = Field(default=0, description="Steps between checkpoints; 0 saves only after the last step.")
    keep: PositiveInt = Field(default=2, description="Number of latest checkpoints to keep on disk.")
    export: bool = Field(
        default=False, description="Export each model as a transformers folder, step_N/model, in the background."
    )
    on_stop: bool = Field(
        default=True, description="Save when Ctrl-C, SIGTERM or an error between two steps ends the run."
    )


class WandbConfig(Section):
    """Weights & Biases; without an API key the run is recorded offline."""

    free_on_resume = EVERY

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="auto: online with an API key, offline without."
    )
    project: str = Field(default="skyrl", description="W&B project of the run.")
    entity: str | None = Field(default=None, description="W&B user or team; null takes your default.")
    group: str | None = Field(default=None, description="Group of the run, such as the seeds of one experiment.")
    name: str | None = Field(default=None, description="Name of the run; null takes the name of the run folder.")
    tags: tuple[str, ...] = Field(default=(), description="Tags of the run.")
    notes: str | None = Field(default=None, description="A description of the run.")
    id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Continue this W&B run; null takes a new one, or that of the run folder in a resumed run.",
    )


class TrackioConfig(Section):
    """Trackio, from the extra `trackio`; without a Space the run is stored on this machine."""

    free_on_resume = EVERY

    project: str = Field(default="skyrl", description="Trackio project of the run.")
    name: str | None = Field(default=None, description="Name of the run; null takes the run folder and four letters.")
    group: str | None = Field(default=None, description="Group of the run, such as the seeds of one experiment.")
    space: str | None = Field(default=None, description="Hugging Face Space that stores the run, `owner/name`.")


class TrackingConfig(Section):
    """Where metrics go; metrics.jsonl is always written."""

    free_on_resume = EVERY

    trackers: tuple[str, ...] = Field(
        default=("console",), description="Trackers: console, wandb, tensorboard, trackio."
    )
    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases.")
    keep_rollouts: NonNegativeInt = Field(default=2, description="Number of latest sample batches to keep on disk.")
    trackio: TrackioConfig = Field(default_factory=TrackioConfig, description="Trackio.")


class PluginsConfig(Section):
    """Which installed plugins may run."""

    free_on_resume = EVERY

    allow: tuple[str, ...] | None = Field(default=None, description="Distributions that may be used; null allows all.")
    deny: tuple[str, ...] = Field(default=(), description="Distributions that may not be used; overrides allow.")
    observers: tuple[str, ...] = Field(default=(), description="Lifecycle observers (group skyrl.plugins) to load.")


class RunConfig(Section):
    """A training run."""

    free_on_resume = frozenset({"run_folder"})

    model: PathText = Field(
        default="tiny",
        description="`tiny` (ships with the trainer), a model folder, or a hub name. Without --config, the tiny model "
        "trains with the settings of the quickstart, not with the defaults listed here.",
    )
    seed: Seed = Field(default=0, description="Seed of the data order and of sampling.")
    run_folder: PathText | None = Field(default=None, description="Folder of the run; null creates runs/<loss>-<time>.")
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="Length and batches of training.")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="How samples are generated.")
    data: DataConfig = Field(default_factory=DataConfig, description="Where prompts come from.")
    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig, description="The reward.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Progress on held-out prompts.")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="When the run is saved.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Where metrics go.")
    plugins: PluginsConfig = Field(default_factory=PluginsConfig, description="Which installed plugins may run.")
    model_options: ModelOptions = Field(default_factory=ModelOptions, description="How the model is loaded.")
