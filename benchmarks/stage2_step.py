"""One step of stage 2 (rollouts, the teacher's scores, update) beside the same work done by TRL's DistillationTrainer.

    python benchmarks/stage2_step.py
    python benchmarks/stage2_step.py --model DIR --new-tokens 144

Same nano model, same states and pictures in the same order, full-vocabulary forward KL at temperature 1, fused
AdamW, one thread. Without `--model`, weights are random and every rollout is exactly `--new-tokens` long:
both sides suppress the end-of-turn tokens. With a trained model, rollouts end on their own. Each measurement is a
process of its own and the sides take turns; the first steps of each are left out. CPU seconds of a single thread
are counted, so that other work on the machine blurs them less. Before that, a few settings are tried on each side,
and the fastest is used.

TRL's trainer gives student and teacher the same prompt. What a subclass must override so that the teacher reads its
own text is `TwoPromptTrainer` below: tokenise the teacher's prompts next to the rollouts
(`_generate_and_score_completions`), and put them in place of the student's prompt and picture when the teacher is
called (`_get_last_hidden_state`; `_compute_loss` tells it which rows). All of them are private methods.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LEVELS = {"frozenlake": (3, 4, 5), "maze": (3, 4), "minibehaviour": (5,)}
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "pilotage": (
        {"micro_batch": 16, "attention": "eager"},
        {"micro_batch": 16, "attention": "sdpa"},
        {"micro_batch": 24, "attention": "eager"},
    ),
    "trl": (
        {"micro_batch": 16, "attention": "eager"},
        {"micro_batch": 16, "attention": "sdpa"},
        {"micro_batch": 48, "attention": "eager"},
        {"micro_batch": 48, "attention": "sdpa"},
        {"micro_batch": 16, "attention": "eager", "pad_to": 16},
    ),
}
"""What is tried on each side: rows in a micro-batch, attention kernel, what TRL pads prompts and completions to."""


def training_examples(count: int) -> list[Any]:
    """`count` distinct states, the tasks and their levels in turn."""
    import numpy as np

    from pilotage.data.examples import make_example
    from pilotage.worlds import TASKS

    rng, seen, examples = np.random.default_rng(0), set(), []
    while len(examples) < count:
        turn = len(examples)
        task = TASKS[turn % len(TASKS)]
        levels = LEVELS[task.name]
        example = make_example(task, task.generate(levels[turn // len(TASKS) % len(levels)], rng), "train")
        if example.id not in seen:
            seen.add(example.id)
            examples.append(example)
    return examples


def benchmark_tokenizer() -> Any:
    """A tokenizer whose words are those of every view of the benchmarks' levels and of its reference answer."""
    from pilotage.nano.tokenizer import build_nano_tokenizer
    from pilotage.views import reference_of_view
    from pilotage.worlds.grids.views import VIEWS

    texts = [
        text
        for example in training_examples(60)
        for name, view in VIEWS.items()
        for text in (
            str([m["content"] for m in view(example, "brief").messages]),
            reference_of_view(example, name),
        )
    ]
    return build_nano_tokenizer(texts, min_count=1)


def save_model(directory: Path) -> None:
    from pilotage.backbones.save import save_backbone
    from pilotage.nano.model import NanoConfig, build_nano

    save_backbone(*build_nano(NanoConfig(), benchmark_tokenizer(), seed=0), directory)


class Stopwatch:
    """CPU and wall seconds of every step, and how far the memory has grown."""

    def __init__(self) -> None:
        self.before_bytes = peak_bytes()
        self.cpu_s, self.wall_s = [time.process_time()], [time.perf_counter()]

    def step_ends(self) -> None:
        self.cpu_s.append(time.process_time())
        self.wall_s.append(time.perf_counter())

    def figures(self) -> dict[str, Any]:
        return {
            "cpu_s": [b - a for a, b in zip(self.cpu_s, self.cpu_s[1:], strict=False)],
            "wall_s": [b - a for a, b in zip(self.wall_s, self.wall_s[1:], strict=False)],
            "peak_bytes": peak_bytes(),
            "grown_bytes": peak_bytes() - self.before_bytes,
        }


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_ours(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pilotage.backbones.load import load_backbone
    from pilotage.distill.divergences import ForwardKL
    from pilotage.distill.estimators import FullVocabulary
    from pilotage.distill.routes import one_teacher
    from pilotage.rollouts.transformers_engine import TransformersEngine
    from pilotage.train.distill import distill
    from pilotage.train.distill_config import DistillConfig, FrozenCopy

    student = load_backbone(model, attn_implementation=options.attention)
    policy = student
    if options.fixed:
        # The engine suppresses vision tokens; here also what ends a turn.
        policy = replace(student, vision_token_ids=(*student.vision_token_ids, *student.eos_ids))
    config = DistillConfig(
        steps=options.steps,
        prompts_per_step=options.rows,
        micro_batch_size=options.micro_batch,
        max_new_tokens=options.new_tokens,
        prompts="brief",
        lr=1e-5,
        router=one_teacher(
            view="teacher", weights=FrozenCopy(), estimator=FullVocabulary(divergence=ForwardKL())
        ),
        checkpoint_every=10**6,
        bf16=options.bf16,
        rollouts_every=0,
    )
    watch: Stopwatch | None = None
    lengths: list[float] = []

    def step_ends(row: dict[str, Any]) -> None:
        assert watch is not None
        watch.step_ends()
        lengths.append(row["rollout/length_mean"])

    examples = training_examples(options.rows * options.steps)
    with tempfile.TemporaryDirectory() as folder:
        watch = Stopwatch()
        distill(
            config,
            student=student,
            examples=examples,
            run_dir=Path(folder),
            engine=TransformersEngine(policy, batch_size=options.rows),
            on_step=step_ends,
        )
    return watch.figures() | {"lengths": lengths}


def run_trl(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    import copy

    import torch
    from datasets import Dataset
    from PIL import Image
    from transformers import TrainerCallback
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer
    from trl.trainer.utils import pad

    from pilotage.backbones.load import load_backbone
    from pilotage.worlds.grids.views import VIEWS

    class TwoPromptTrainer(DistillationTrainer):
        """The teacher reads `teacher_prompt`, text only, in place of the student's prompt and picture."""

        def _send_telemetry(self) -> None:
            pass

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = super()._generate_and_score_completions(inputs)
            rows = self.processing_class.apply_chat_template(  # pyright: ignore
                [row["teacher_prompt"] for row in inputs],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )["input_ids"]
            ids = [torch.tensor(row) for row in rows]
            fill: Any = self._tokenizer.pad_token_id
            how: Any = {"padding_side": "left", "pad_to_multiple_of": self.pad_to_multiple_of}
            output["teacher_prompt_ids"] = pad(ids, padding_value=fill, **how)
            output["teacher_prompt_mask"] = pad([torch.ones_like(row) for row in ids], padding_value=0, **how)
            return output

        def _compute_loss(self, unwrapped_student: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            self._scored = inputs
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)

        def _get_last_hidden_state(
            self,
            unwrapped_model: Any,
            input_ids: Any,
            attention_mask: Any,
            logits_to_keep: int,
            **images: Any,
        ) -> Any:
            if unwrapped_model is self.accelerator.unwrap_model(self.teacher_model):
                shown = self._scored
                input_ids = torch.cat([shown["teacher_prompt_ids"], shown["completion_ids"]], dim=1)
                attention_mask = torch.cat([shown["teacher_prompt_mask"], shown["completion_mask"]], dim=1)
                images = {}
            return super()._get_last_hidden_state(
                unwrapped_model, input_ids, attention_mask, logits_to_keep, **images
            )

    class Ticker(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.step_ends()

    student = load_backbone(model, attn_implementation=options.attention)
    suppressed = [*student.vision_token_ids, *(student.eos_ids if options.fixed else ())]
    examples = training_examples(options.rows * options.steps)
    data = Dataset.from_list(
        [
            {
                "prompt": list(VIEWS["student"](example, "brief").messages),
                "teacher_prompt": list(VIEWS["teacher"](example, "brief").messages),
                "image": Image.open(io.BytesIO(example.image)).convert("RGB"),
            }
            for example in examples
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.micro_batch,
            gradient_accumulation_steps=options.rows // options.micro_batch,
            max_completion_length=options.new_tokens,
            generation_kwargs={"suppress_tokens": suppressed},
            pad_to_multiple_of=options.pad_to,
            beta=0.0,
            learning_rate=1e-5,
            weight_decay=0.01,
            optim="adamw_torch_fused",
            lr_scheduler_type="constant",
            activation_checkpointing=False,
            bf16=options.bf16,
            shuffle_dataset=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        trainer = TwoPromptTrainer(
            model=student.model,
            teacher_model=copy.deepcopy(student.model).eval().requires_grad_(False),
            args=args,
            train_dataset=data,
            processing_class=student.processor,
            callbacks=[Ticker()],
        )
        watch = Stopwatch()
        trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return watch.figures() | {"lengths": [row["completions/mean_length"] for row in rows]}


def measured(side: str, model: Path, options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--model", str(model)]
    values = {name: getattr(options, name) for name in ("steps", "rows", "new_tokens")} | settings
    for name, value in values.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    if options.model is None:
        command.append("--fixed")
    if options.bf16:
        command.append("--bf16")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    run = json.loads(done.stdout.splitlines()[-1])
    if options.model is None:
        assert set(run["lengths"]) == {float(options.new_tokens)}, run["lengths"]
    return run


def summary(runs: list[dict[str, Any]], skip: int) -> dict[str, float]:
    """Medians over the steps of all runs, the first `skip` of each left out."""
    return {
        "cpu_s": statistics.median(s for run in runs for s in run["cpu_s"][skip:]),
        "wall_s": statistics.median(s for run in runs for s in run["wall_s"][skip:]),
        "length": statistics.mean(n for run in runs for n in run["lengths"][skip:]),
        "peak_bytes": statistics.median(run["peak_bytes"] for run in runs),
        "grown_bytes": statistics.median(run["grown_bytes"] for run in runs),
    }


def report(
    options: argparse.Namespace, found: dict[str, dict[str, float]], settings: dict[str, dict[str, Any]]
) -> str:
    import torch
    import transformers
    import trl

    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    ours, theirs = found["pilotage"], found["trl"]
    command = f"python benchmarks/stage2_step.py --rounds {options.rounds} --steps {options.steps}"
    command += f" --rows {options.rows} --new-tokens {options.new_tokens}{' --bf16' if options.bf16 else ''}"
    if options.model is None:
        title = f"Every rollout {options.new_tokens} tokens long"
        lengths = (
            f"random weights, end-of-turn tokens suppressed on both sides, {options.new_tokens} tokens each"
        )
    else:
        command += f" --model {options.model.name}"
        title = "Rollouts end on their own"
        lengths = f"trained weights, at most {options.new_tokens} tokens"
    precision = "matrix products in bfloat16" if options.bf16 else "float32"
    tried = "" if options.untried else ", the fastest of those tried on each side"
    used = "; ".join(
        f"{name}: {', '.join(f'{key} {value}' for key, value in chosen.items())}"
        for name, chosen in settings.items()
    )
    lines = [
        f"## {title}",
        "",
        f"`{command}` at commit {commit}, {date.today()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, TRL {trl.__version__}, one thread, "
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        f"{options.rows} pictures a step; {lengths}; {precision}. Medians over {options.rounds} processes a side, "
        f"taking turns, {options.steps - options.skip} steps each after {options.skip} left out. Settings{tried}: "
        f"{used}.",
        "",
        "| | CPU s a step | steps per CPU s | wall s a step | mean length | peak MiB | MiB since step 1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, figures in found.items():
        lines.append(
            f"| {name} | {figures['cpu_s']:.2f} | {1 / figures['cpu_s']:.3f} | {figures['wall_s']:.2f} | "
            f"{figures['length']:.1f} | {figures['peak_bytes'] / 2**20:,.0f} | "
            f"{figures['grown_bytes'] / 2**20:,.0f} |"
        )
    lines.append(
        f"| **ratio** | | **{theirs['cpu_s'] / ours['cpu_s']:.2f}** | | | "
        f"{ours['peak_bytes'] / theirs['peak_bytes']:.2f} | {ours['grown_bytes'] / theirs['grown_bytes']:.2f} |"
    )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes per side")
    parser.add_argument("--steps", type=int, default=6, help="steps in each process")
    parser.add_argument("--skip", type=int, default=2, help="first steps that are left out")
    parser.add_argument("--rows", type=int, default=48, help="rollouts in a step")
    parser.add_argument("--new-tokens", type=int, default=64, help="length of every rollout")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16 on both sides")
    parser.add_argument("--model", type=Path, help="trained model directory; rollouts then end on their own")
    parser.add_argument("--untried", action="store_true", help="use the first settings of each side")
    parser.add_argument("--out", type=Path, help="Markdown file to append to")
    parser.add_argument("--side", choices=["pilotage", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--fixed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--micro-batch", type=int, default=16, help=argparse.SUPPRESS)
    parser.add_argument("--attention", default="eager", help=argparse.SUPPRESS)
    parser.add_argument("--pad-to", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        import torch

        torch.set_num_threads(1)
        side = run_ours if options.side == "pilotage" else run_trl
        print(json.dumps(side(options.model, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = Path(folder) / "nano"
            save_model(model)
        settings = {}
        for side, choices in SETTINGS.items():
            if options.untried:
                settings[side] = choices[0]
                continue
            tried = [measured(side, model, options, chosen) for chosen in choices]
            cpu_s = [summary([run], options.skip)["cpu_s"] for run in tried]
            for chosen, seconds in zip(choices, cpu_s, strict=True):
                print(f"{side}, {chosen}: {seconds:.2f} CPU s a step", flush=True)
            settings[side] = choices[cpu_s.index(min(cpu_s))]
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SETTINGS}
        for _ in range(options.rounds):
            for side, done in runs.items():
                done.append(measured(side, model, options, settings[side]))
                print(side, [f"{seconds:.2f}" for seconds in done[-1]["cpu_s"]], flush=True)
    text = report(options, {side: summary(done, options.skip) for side, done in runs.items()}, settings)
    print(text)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
