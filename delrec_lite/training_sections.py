"""The sections of a recipe that say how it is trained: stage 1, stage 2, and an update of both."""

from typing import ClassVar, Literal

from pydantic import Field

from delrec_lite.data_section import Section


class OptimSection(Section):
    """Length and learning rate of a stage's training."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"checkpointing", "gradient_accumulation_steps"})
    epochs: float = Field(1.0, gt=0, description="passes over all training interactions")
    tokens_per_step: int = Field(800, ge=16, description="item tokens whose gradients make one step")
    lr: float = Field(1e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps in which lr rises from 0")
    checkpointing: bool = Field(False, description="compute activations again in the backward pass: less memory")
    seed: int = 1


class DistillSection(OptimSection):
    """Stage 1: the LLM is frozen, only the soft prompt learns (DELRec, sections 4.2 and 4.3)."""

    epochs: float = Field(1.0, ge=0, description="0 leaves the soft prompt untrained")
    lr: float = Field(3e-2, gt=0)
    temporal_share: float = Field(0.25, ge=0, le=1, description="share of a step's tokens for temporal analysis")
    temperature: float = Field(1.0, gt=0, description="softens the teacher's distribution")
    weighting: Literal["uncertainty", "gradient-norm", "fixed"] = "uncertainty"
    pattern_loss: Literal["kl", "top1"] = Field("kl", description="the teacher's distribution, or its first item alone")
    train_llm: bool = Field(
        False, description="the adapter is trained in stage 1 too, and stage 2 continues it (ablation)"
    )


class FinetuneSection(OptimSection):
    """Stage 2: the soft prompt is frozen, the adapter and the item vectors learn."""

    default_compatible: ClassVar[frozenset[str]] = frozenset(
        {"text_lr", "offset_dropout", "item_dropout", "state_dropout", "teacher_inside", "teacher_recipe"}
    )
    epochs: float = Field(3.0, ge=0, description="0 leaves the LLM as pretrained")
    lr: float = Field(6e-4, gt=0, description="of the adapter")
    item_lr: float = Field(1e-3, gt=0, description="of the item vectors, scale and bias")
    text_lr: float = Field(1e-3, gt=0, description="of the maps from text features, with `model.item_text`")
    offset_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the items that a step represents by their text alone; default 0.2 with "
        "`model.item_text`, else 0",
    )
    item_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the items' input vectors")
    state_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the hidden states that score the catalogue")
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    adapter: Literal["lora", "dora", "adalora", "full"] = Field(
        "lora", description="full: no adapter, all weights of the network are trained"
    )
    modules: Literal["attention", "all", "qv"] = Field("attention", description="linear layers that get an adapter")
    optimiser: Literal["adamw", "paged_adamw_8bit"] = Field("adamw", description="paged_adamw_8bit on CUDA only")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches of a step, computed one after another")
    teacher_weight: float = Field(0.0, ge=0, le=1, description="share of the teacher's distribution in the target")
    teacher_recipe: str | None = Field(
        None,
        description="another recipe for the same data, a shipped name or a YAML file: its trained model, such as one "
        "with more layers, is a second teacher, and the target's teacher is the mean of both",
    )
    teacher_inside: bool = Field(
        False,
        description="answers add the teacher's log-probabilities to the model's scores, and half of the loss is the "
        "sum's: the model learns what the teacher lacks",
    )
    train_soft: bool = Field(False, description="the soft prompt is trained too (ablation)")
    teacher_until: float = Field(
        1.0, gt=0, le=1, description="share of the steps after which teacher_weight falls, reaching 0 at the end"
    )
    valid_every: float = Field(
        0.0, ge=0, description="epochs between validations, which choose the weights; 0: no validation"
    )
    patience: int = Field(3, ge=1, description="validations without improvement before training stops")
    average: float = Field(
        0.0, ge=0, lt=1, description="decay per step of the running mean of the weights, which is saved; 0: no mean"
    )


class UpdateSection(Section):
    """What `delrec-lite update` does with newer data; nothing else reads it."""

    epochs: float = Field(1.0, ge=0, description="passes of stage 2 over the new interactions; 0: it stays as it is")
    teacher_epochs: int = Field(3, ge=0, description="passes of each teacher over them; 0: it stays as it is")
    replay: float = Field(
        0.5, ge=0, lt=1, description="share of old interactions, drawn at random, among those that are trained"
    )
    lr: float = Field(0.5, gt=0, description="factor of the learning rates of the first training")
    tolerance: float = Field(
        0.01, ge=0, description="gate: by so much NDCG@10 may be below the old bundle's on the newest interactions"
    )
