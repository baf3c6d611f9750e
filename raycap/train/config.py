"""What a training run is made of: the optimizer's settings, the loop's, and where it is tracked.

Every block is frozen and validated; what only the machine knows (GPUs, folders) is checked in checks.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from raycap import choosing
from raycap.config import DataConfig, Frozen
from raycap.data.featurize import FeaturizeOptions
from raycap.decoding import DecodingConfig
from raycap.models import ModelConfig
from raycap.vision import EncoderConfig


def spelled_off(value: object) -> object:
    """`off` again, which YAML takes for false where it stands without quotes."""
    return "off" if value is False else value


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Frozen):
    """The optimizer and its schedule: linear warm-up, then a cosine down to a floor."""

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps its moments in 8 bits (bitsandbytes)."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the new layers."""
    lora_lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the LoRA weights."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the run over which the learning rate rises."""
    warmup_steps: int = Field(default=0, ge=0)
    """Warm-up in optimizer steps; 0 uses warmup_share."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """The cosine ends at this share of the peak; 1 keeps the rate constant."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay of matrices; biases, gates and norms have none."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the running mean and of the running square of the gradient."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 does not clip."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are summed before one optimizer step."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a running average of the weights, which validation and checkpoints then use; 0 keeps none."""


class TrainOptions(Frozen):
    """The run: where it goes, how long it takes, what it runs on."""

    run: str
    """Folder (or URI) of the run: checkpoints, metrics.jsonl, loss.png, curves.png, samples.html."""
    epochs: int = Field(default=5, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=32, ge=1)
    """Images a worker takes at a time, each with all its captions."""
    max_tokens: int = Field(default=40, ge=1)
    """Longer captions are cut here, and then do not teach the model to end."""
    num_workers: int = Field(default=1, ge=1)
    """Workers that train side by side (DDP)."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """What a worker computes on; auto takes a GPU for each worker where the cluster has them."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs a worker reserves; it computes with as many threads."""
    gpus_per_worker: float = Field(default=1, gt=0)
    """GPUs a worker reserves where it computes on CUDA."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes under autocast; trained weights stay float32."""
    seed: int = Field(default=0, ge=0)
    """Seed of the new layers, the order of images and dropout."""
    cache: Literal["object_store", "disk", "none"] = "object_store"
    """Where an epoch reads its features: memory, files, or nowhere (the encoder runs in every epoch)."""
    shuffle_images: int = Field(default=1024, ge=0)
    """Images a worker holds to draw batches from at random; 0 keeps the order of the files."""
    bucket_batches: int = Field(default=8, ge=1)
    """Batches taken together and regrouped by caption length, which saves padding; 1 leaves batches alone."""
    checkpoint_every_steps: int = Field(default=0, ge=0)
    """Optimizer steps between checkpoints inside an epoch; 0 saves at the end of each epoch only."""
    max_failures: int = Field(default=3, ge=0)
    """Lost workers to replace before giving up."""
    metric: str = "cider_d"
    """Caption metric of the figure and the screen; its best checkpoint is kept where train.choose is not set."""
    choose: str = ""
    """How best-metric, which evaluate and caption use by default, is chosen: a metric, cider-centred, pareto,
    weighted:cider_d=1,bleu_4=0.5, lexicographic:cider_d=0.02,val_loss, meteor-centred; by train.metric where empty."""
    val_beams: int = Field(default=1, ge=1)
    """Beams for the validation captions; the other decoding settings are the decoding block's."""
    num_samples: int = Field(default=12, ge=0)
    """Validation photos to show in samples.html."""

    @field_validator("choose")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        if value:
            choosing.parse(value)
        return value

    @property
    def strategy(self) -> str:
        """By which best-metric is chosen (see raycap.choosing)."""
        return self.choose or self.metric


class TrackingConfig(Frozen):
    """Where a run is tracked besides its own folder: Weights & Biases, TensorBoard."""

    wandb: Annotated[Literal["off", "online", "offline"], BeforeValidator(spelled_off)] = "off"
    """Curves, a table of samples over all epochs, checkpoints; offline writes to RUN/wandb, for `wandb sync` later."""
    project: str = "raycap"
    """W&B project."""
    name: str = ""
    """Name of the run there; the run folder's name by default."""
    group: str = ""
    """Runs of one group stand together there; a sweep's trials are one, by default under the sweep folder's name."""
    checkpoints: Literal["end", "epoch", "never"] = "end"
    """When best-metric, best-loss and last go to W&B as artifacts; where they changed, after each epoch."""
    tensorboard: bool = False
    """Write scalars and sample captions to RUN/tensorboard as well."""


class TrainConfig(Frozen):
    """Everything one training run depends on."""

    data: DataConfig
    encoder: EncoderConfig
    featurize: FeaturizeOptions
    model: ModelConfig
    optim: OptimConfig = OptimConfig()
    train: TrainOptions
    tracking: TrackingConfig = TrackingConfig()
    decoding: DecodingConfig = DecodingConfig()
