"""What a distillation run needs around its steps: the Trainer's arguments, the saved model."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import TrainingArguments

from pilotage.backbones.load import Backbone, is_sharded
from pilotage.backbones.save import save_backbone
from pilotage.backbones.weights import lost_in, whole_parameters
from pilotage.distill.routes import Router
from pilotage.errors import PilotageError
from pilotage.files import PARTIAL
from pilotage.records import Example
from pilotage.rollouts.sources import FromTeacher
from pilotage.train import checkpoints
from pilotage.train.distill_config import DistillConfig
from pilotage.train.step.moves import TeacherTurns

logger = logging.getLogger(__name__)

MUCH_LOST = 0.1
"""Share of an adapter's change: where rounding the merged model to bfloat16 takes more, the log says so."""


def gathered_weights(model: Any) -> dict[str, torch.Tensor] | None:
    """All weights on the CPU, on the first rank, when the model is sharded; all ranks must call this."""
    if not is_sharded(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(  # pyright: ignore[reportReturnType]
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


def save_whole(backbone: Backbone, directory: Path, *, writes: bool = True) -> None:
    """Writes a model directory that appears when it is complete; a LoRA adapter is merged, and kept beside it.

    A merged model is in float32, as an adapter's change may be below what 16 bits hold; the log says what reading it in
    bfloat16 loses. All ranks call this, one of which `writes`: a sharded model is gathered.
    """
    model = backbone.model
    if not writes and not is_sharded(model):
        return
    state_dict = gathered_weights(model)
    if hasattr(model, "get_base_model"):
        if writes:
            model.save_pretrained(directory.with_name("adapter"), state_dict=state_dict)
        if (lost := lost_in(model, torch.bfloat16)) > MUCH_LOST and writes:
            logger.warning(
                "%s is merged in float32; read in bfloat16 it loses %.0f %% of what the adapter changes to rounding",
                *(directory, 100 * lost),
            )
        base = model.get_base_model()
        kept = base.state_dict().keys()  # without buffers that are computed anew
        state_dict = {name: value.cpu() for name, value in base.named_buffers() if name in kept}
        for name, value in whole_parameters(model, dtype=torch.float32):
            if writes:
                state_dict[name] = value.cpu()
        model = _shape_of(base)
    if writes:
        partial = directory.with_name(directory.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        save_backbone(model, backbone.processor, partial, state_dict=state_dict)
        checkpoints.publish(partial, directory)


def with_weights(config: DistillConfig, change: Callable[[Any], Any]) -> DistillConfig:
    """The configuration with the weights of all its teachers changed: those that read, and those that write."""

    def changed(teacher: Any) -> Any:
        return replace(teacher, weights=change(teacher.weights))

    def of(router: Router) -> Router:
        return replace(router, routes=tuple(map(changed, router.routes)))

    parts = [
        (share, changed(each) if isinstance(each, FromTeacher) else each)
        for share, each in config.sources.parts
    ]
    new: dict[str, Any] = {
        "router": of(config.router),
        "of_roles": tuple((role, of(router)) for role, router in config.of_roles),
        "description": config.description and changed(config.description),
        "sources": replace(config.sources, parts=tuple(parts)),
    }
    if isinstance(config.moves, TeacherTurns):
        new["moves"] = replace(config.moves, teacher=changed(config.moves.teacher))
    return replace(config, **new)


def _shape_of(model: Any) -> Any:
    """The plain model in float32, without numbers."""
    with torch.device("meta"):
        plain = type(model)._from_config(model.config, dtype=torch.float32)
    plain.generation_config = model.generation_config
    return plain


def training_arguments(config: DistillConfig, folder: Path, student: Backbone) -> TrainingArguments:
    on_cpu = not torch.cuda.is_available() or student.device.type == "cpu"
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=1,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and "LOCAL_RANK" in os.environ else None,
        ddp_find_unused_parameters=False,
        # They are constants, and ranks that share a prompt's beginning call the model more often than others.
        ddp_broadcast_buffers=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every,
        ignore_data_skip=True,
        report_to="none",
        disable_tqdm=True,
        use_cache=True,
        remove_unused_columns=False,
    )


def check_sharing(accelerator: Any) -> None:
    """Raises PilotageError for ways of sharing out parameters under which ranks would wait for each other for ever.

    How many forwards a rank has to make follows from its own rollouts, and only with FSDP2 do ranks agree on it.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise PilotageError(
            "fsdp_version 1 cannot decode rollouts of unequal lengths; set fsdp_version to 2 in accelerate's settings"
        )
    if kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise PilotageError(
            "zero_stage 3 cannot decode rollouts of unequal lengths; set it to 2, or use FSDP with fsdp_version 2"
        )


def checkpoint_activations(model: Any) -> None:
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def fingerprint(backbone: Backbone) -> str:
    """Tells weights apart wherever they were loaded from: a hash of the first numbers of every parameter.

    An adapter is left out: it begins at random, and a checkpoint brings its own.
    """
    digest = hashlib.sha256()
    for name, parameter in backbone.model.named_parameters():
        if "lora_" in name:
            continue
        first = parameter.detach().flatten()[:256].float().cpu()
        digest.update(name.encode() + first.numpy().tobytes())
    return digest.hexdigest()[:16]


def example_digest(examples: Sequence[Example]) -> str:
    """The number of examples, and a hash of their ids in order."""
    text = "\n".join(example.id for example in examples)
    return f"{len(examples)}, {hashlib.sha256(text.encode()).hexdigest()[:16]}"
