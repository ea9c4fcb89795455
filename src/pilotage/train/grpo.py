"""GRPO by TRL's trainer: answers from our engine, rewards from the one judge, checkpoints and figures as everywhere."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from pilotage.backbones.load import Backbone, with_lora
from pilotage.errors import PilotageError
from pilotage.files import clear_partial
from pilotage.pictures import read_rgb
from pilotage.records import Example, Outcome
from pilotage.rollouts.engine import Decoding, Engine, samples_of
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train import checkpoints
from pilotage.train.distill_setup import example_digest, fingerprint, save_whole
from pilotage.train.grpo_config import GrpoConfig
from pilotage.train.movement import expects_rounding
from pilotage.train.seeds import mixed
from pilotage.train.settings import as_settings
from pilotage.train.sft_config import OnBegin, OnStep
from pilotage.train.step.order import ExampleOrder
from pilotage.train.trl_stage import TrlStage, shared_arguments
from pilotage.views import make_view
from pilotage.worlds.registry import get_world

logger = logging.getLogger(__name__)

SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
"""What `accelerate launch` sets in the environment of ranks that share out the weights."""

FIGURES = {
    "rewards/success/mean": "rollout/success",
    "rewards/parsed/mean": "rollout/parsed",
    "reward": "rollout/reward",
    "reward_std": "rollout/reward_std",
    "frac_reward_zero_std": "rollout/same_reward",
    "completions/mean_length": "rollout/length_mean",
    "completions/clipped_ratio": "rollout/truncated",
    "entropy": "policy/entropy",
    "kl": "kl/start",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
}
"""TRL's name of a figure -> ours. `rollout/same_reward` is the share of groups that teach nothing."""


def run_grpo(
    config: GrpoConfig,
    backbone: Backbone,
    examples: Sequence[Example],
    run_dir: str | Path,
    on_step: OnStep | None = None,
    *,
    engine: Engine | None = None,
    on_begin: OnBegin | None = None,
) -> Path:
    """Trains the backbone's model (its weights in memory too) and returns the folder of the saved model.

    Writes to `run_dir/metrics.jsonl` and `run_dir/<stage>/`; run again after a kill, it goes on from the last
    checkpoint. `engine` defaults to decoding with the model itself; `on_begin` is called once nothing can be refused,
    before the first step. Raises PilotageError when the folder holds a run with other settings, or when
    accelerate is to shard the model.
    """
    if sharding := [name for name in SHARDING if os.environ.get(name, "").lower() in ("1", "true", "yes")]:
        # Ranks whose answers end at different lengths would wait for each other's shards for ever.
        raise PilotageError(
            f"GRPO samples with the model itself and cannot do so while its weights are sharded ({sharding[0]} is "
            "set): launch without FSDP and DeepSpeed, every rank then holds the whole model"
        )
    folder = Path(run_dir) / config.stage
    is_first = os.environ.get("RANK", "0") == "0"
    # Before the adapter, under which parameters have other names.
    whence = {"model": fingerprint(backbone), "examples": example_digest(examples)}
    settings = as_settings(config) | whence
    directory = folder / "model"
    if directory.is_dir():
        if is_first:
            checkpoints.claim(folder, settings)
        logger.info("%s is finished already", directory)
        return directory
    if config.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            backbone = with_lora(backbone, config.lora)
    trainer = GrpoTrainer(config, backbone, examples, run_dir=Path(run_dir), on_step=on_step, engine=engine)
    with checkpoints.training_in(Path(run_dir), is_first=is_first):
        if is_first:
            checkpoints.claim(folder, settings)
            if on_begin is not None:
                on_begin()
            if told := expects_rounding(backbone.model, config.lr):
                logger.warning("%s", told)
        trainer.run()
        backbone.model.eval()
        if is_first:
            save_whole(backbone, directory)
            clear_partial(folder)
        trainer.accelerator.wait_for_everyone()
    return directory


class GrpoTrainer(TrlStage, GRPOTrainer):
    """TRL's GRPOTrainer over our examples."""

    def __init__(
        self,
        config: GrpoConfig,
        backbone: Backbone,
        examples: Sequence[Example],
        *,
        run_dir: Path,
        on_step: OnStep | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.begin(config, backbone.model, run_dir=run_dir, on_step=on_step)
        self.num_checkpoints = config.num_checkpoints
        self.backbone = backbone
        self._example_of = {example.id: example for example in examples}
        self._order = ExampleOrder(examples, prompts_per_step=config.prompts_per_step, seed=config.seed)
        self._engine = engine or TransformersEngine(
            backbone, batch_size=max(64, config.micro_batch_size), max_prompt_tokens=config.max_prompt_tokens
        )
        rewards, weights = self._rewards()
        places = range(config.steps * config.prompts_per_step)
        # Its answers come from our engine, by a hook that TRL calls experimental.
        warnings.filterwarnings("ignore", message="You are using 'rollout_func'", category=UserWarning)
        super().__init__(
            model=backbone.model,
            args=_arguments(config, self.stage_dir, backbone, weights),
            reward_funcs=rewards,
            train_dataset=Dataset.from_dict({"place": list(places)}).with_transform(self._prompts),
            processing_class=backbone.processor,
            rollout_func=self._rollouts,
        )
        if config.kl_coef:
            # TRL would load them from where the model came from, which need not be a folder.
            self.beta = config.kl_coef
            if config.lora is None:
                start = copy.deepcopy(backbone.model).eval().requires_grad_(False)
                self.ref_model = self.accelerator.prepare_model(start, evaluation_mode=True)
        self.remove_callback(PrinterCallback)

    def _prompts(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """Rows as TRL wants them; the message carries its example's name to the engine and the judge."""
        rows: dict[str, list[Any]] = {"prompt": [], "image": [], "example": []}
        for place in batch["place"]:
            step, index = divmod(place, self.stage_config.prompts_per_step)
            example = self._example_of[self._order.slots(step)[index].example.id]
            view = make_view("student", example, self.stage_config.prompts)
            (image,) = view.images
            rows["prompt"].append([dict(message) | {"example": example.id} for message in view.messages])
            rows["image"].append(read_rgb(image))
            rows["example"].append(example.id)
        return rows

    def _rollouts(self, prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        """One answer for each prompt; a group's prompts stand together, and its samples differ."""
        names: list[str] = [prompt[0]["example"] for prompt in prompts]
        groups: list[list[str]] = []
        for name in names:
            if not groups or groups[-1][0] != name or len(groups[-1]) == self.stage_config.samples_per_prompt:
                groups.append([])
            groups[-1].append(name)
        config = self.stage_config
        decoding = Decoding(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
        )
        rollouts = []
        self._engine.sync(self.backbone.model)
        was_training = self.model.training
        self.model.eval()
        for length in sorted({len(group) for group in groups}):
            # Ranks may cut a group; each part is drawn with its rank's own seed.
            of_length = [group[0] for group in groups if len(group) == length]
            seed = mixed(config.seed, self.state.global_step, self.args.process_index)
            views = [make_view("student", self._example_of[name], config.prompts) for name in of_length]
            requests = samples_of(views, of_length, num=length, seed=seed)
            rollouts += self._engine.generate(requests, decoding)
        self.model.train(was_training)
        waiting: dict[str, list[Any]] = {}
        for rollout in rollouts:
            waiting.setdefault(rollout.example_id, []).append(rollout)
        in_order = [waiting[name].pop(0) for name in names]
        prompt_ids, _, _ = self._tokenize_prompts(prompts)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [list(rollout.token_ids) for rollout in in_order],
            "logprobs": [list(rollout.logprobs) for rollout in in_order],
        }

    def _rewards(self) -> tuple[list[Any], list[float]]:
        """Reward functions and their weights: success, form, and for the log alone success by task."""

        def verdicts(completion_ids: Any, example: Any) -> list[Any]:
            return [
                _outcome(self._example_of[name], self.backbone.decode(ids))
                for name, ids in zip(example, completion_ids, strict=True)
            ]

        def success(completion_ids: Any, example: Any, **_: Any) -> list[float | None]:
            return [float(verdict.success) for verdict in verdicts(completion_ids, example)]

        def parsed(completion_ids: Any, example: Any, **_: Any) -> list[float | None]:
            return [float(verdict.is_("parsed")) for verdict in verdicts(completion_ids, example)]

        def of_task(task: str) -> Callable[..., list[float | None]]:
            def function(completion_ids: Any, example: Any, **_: Any) -> list[float | None]:
                won = success(completion_ids, example)
                mine = [self._example_of[name].task == task for name in example]
                return [value if is_mine else None for value, is_mine in zip(won, mine, strict=True)]

            function.__name__ = f"success/{task}"
            return function

        tasks = self._order.tasks
        return [success, parsed, *map(of_task, tasks)], [1.0, self.stage_config.format_reward] + [0.0] * len(
            tasks
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        names = FIGURES | {
            f"rewards/success/{task}/mean": f"rollout/success/{task}" for task in self._order.tasks
        }
        figures = {
            ours: float(logs[theirs]) for theirs, ours in names.items() if logs.get(theirs) is not None
        }
        self.tell(figures)


def _arguments(config: GrpoConfig, folder: Path, backbone: Backbone, weights: list[float]) -> GRPOConfig:
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if config.num_answers % (config.micro_batch_size * num_ranks):
        raise PilotageError(
            f"a step's {config.num_answers} answers cannot be shared out to {num_ranks} ranks in micro-batches of "
            f"{config.micro_batch_size}"
        )
    parts = config.num_answers // (config.micro_batch_size * num_ranks)
    schedules = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_generations=config.samples_per_prompt,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        epsilon=config.clip,
        loss_type=config.loss,
        scale_rewards="group" if config.scale_by_spread else "none",
        reward_weights=weights,
        shuffle_dataset=False,
        learning_rate=config.lr,
        lr_scheduler_type=schedules[config.schedule],
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        save_steps=config.checkpoint_every,
        seed=config.seed,
        **shared_arguments(backbone),
    )


def _outcome(example: Example, text: str) -> Outcome:
    session = get_world(example.world).open(example)
    session.act(text)
    return session.outcome()
