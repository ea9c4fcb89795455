"""Run folders without a model: real states, scripted answerers with planted faults.

`python tests/support/synthetic_run.py FOLDER` writes three with their pages, to look at: plans as the demo leaves
them, episodes of many turns, and questions about pictures.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotage.evaluate import evaluate
from pilotage.records import Example, Observation, Privileged, Rollout
from pilotage.rollouts import Decoding, Request
from pilotage.views import reference_of_view
from pilotage.worlds import TASKS, get_task, get_world
from pilotage.worlds.drawing import encode_png
from pilotage.worlds.grids.data.steps import step_examples
from pilotage.worlds.questions.asked import QUESTION_KINDS
from pilotage.worlds.questions.data.build import iter_questions
from pilotage.worlds.questions.question import make_question
from pilotage.worlds.score import score
from pilotage.worlds.task import reference_response, state_hash

LEVELS = {"frozenlake": (3, 4, 5), "maze": (3, 4), "minibehaviour": (5,)}
# Stage -> condition -> (share of right answers, share of faults that are no plan at all)
SKILL = {
    "base": {"image": (0.04, 0.3), "text": (0.97, 0.5), "perception": (0.02, 0.3)},
    "stage1": {"image": (0.15, 0.1), "text": (0.96, 0.5), "perception": (0.97, 0.1)},
    "stage2": {"image": (0.95, 0.1), "text": (0.97, 0.5), "perception": (0.98, 0.1)},
}


def make_examples(
    num_per_task: int, seed: int = 0, levels: Mapping[str, Sequence[int]] = LEVELS
) -> list[Example]:
    """Unseen states with pictures, levels in turn."""
    rng = np.random.default_rng(seed)
    examples: dict[str, Example] = {}
    for task in TASKS:
        at_levels = levels.get(task.name, tuple(task.levels)[:1])
        num_made = 0
        while num_made < num_per_task:
            level = at_levels[num_made % len(at_levels)]
            state = task.generate(level, rng)
            solution = task.solve(state)
            assert solution is not None
            id_ = f"{task.name}-{level}-{state_hash(task, state)[:12]}"
            if id_ in examples:
                continue
            num_made += 1
            examples[id_] = Example(
                id=id_,
                world=task.name,
                split="test",
                axes={"level": level, "difficulty": task.difficulty(state, len(solution.plan))},
                start=Observation(
                    images=(encode_png(task.draw(state, 32)),),
                    privileged=Privileged(
                        state=task.to_json(state), facts=task.facts(state), plan=solution.plan
                    ),
                ),
            )
    return list(examples.values())


class ScriptedEngine:
    """Answers from the reference with planted faults, as often as its skill says."""

    def __init__(
        self, examples: Sequence[Example], skill: Mapping[str, tuple[float, float]], seed: int = 0
    ) -> None:
        self.examples = {example.id: example for example in examples}
        self.skill = skill
        self.rng = np.random.default_rng(seed)

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        rollouts: list[Rollout] = []
        max_new_tokens = decoding.max_new_tokens
        for request in requests:
            text = self.answer(self.examples[request.example_id], request.view.name)
            rollouts.append(
                Rollout(
                    example_id=request.example_id,
                    token_ids=tuple(range(min(max_new_tokens, len(text) // 3))),
                    text=text[: 4 * max_new_tokens],
                    finished=len(text) <= 4 * max_new_tokens,
                )
            )
        return rollouts

    def answer(self, example: Example, view_name: str) -> str:
        condition = {"student": "image", "symbolic": "text"}.get(view_name, view_name)
        right, broken = self.skill[condition]
        truth = reference_of_view(example, view_name)
        if self.rng.random() < right:
            return truth
        if self.rng.random() < broken:
            cut = int(self.rng.integers(3, len(truth)))
            return truth[:cut]
        return self._misread(truth)

    def _misread(self, truth: str) -> str:
        """One or two cells moved and a move changed: what weak eyes do."""
        cells = list(re.finditer(r"\((\d+),(\d+)\)", truth))
        for match in self.rng.choice(len(cells), size=min(2, len(cells)), replace=False):
            cell = cells[int(match)]
            moved = f"({int(cell[1]) ^ 1},{cell[2]})"
            truth = truth[: cell.start()] + moved + truth[cell.end() :]
        head, found, plan = truth.partition("<answer>")
        if not found:
            return truth
        moves = plan.removesuffix("</answer>").split()
        moves[int(self.rng.integers(len(moves)))] = str(self.rng.choice(list("LDRU")))
        return f"{head}<answer>{' '.join(moves)}</answer>"


def write_run(folder: Path, num_per_task: int = 12, seed: int = 0) -> list[Example]:
    """Everything that the demo leaves in a run folder, the page excepted."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = make_examples(num_per_task, seed)
    stages = {}
    for i, (stage, skill) in enumerate(SKILL.items()):
        summary = evaluate(
            ScriptedEngine(examples, skill, seed=seed + i),  # pyright: ignore[reportArgumentType]
            examples,
            stage=stage,
            prompts="brief",
            max_new_tokens=256,
            out=folder,
            model=f"nano-{stage}",
        )
        stages[stage] = {"seconds": (41.2, 163.5, 231.8)[i], "tasks": summary.headline()}
    (folder / "summary.json").write_text(json.dumps({"stages": stages, "seed": seed}))
    (folder / "config.json").write_text(json.dumps(config(seed)))
    write_metrics(folder / "metrics.jsonl", seed)
    return examples


class Walker:
    """Makes the expert's move at a turn as often as its skill says, else any move, and at times says none."""

    def __init__(self, examples: Sequence[Example], skill: float, seed: int = 0) -> None:
        self.worlds = {example.id: get_world(example.world).task for example in examples}
        self.states = {example.id: self.worlds[example.id].parse_state(example.state) for example in examples}
        self.skill, self.rng = skill, np.random.default_rng(seed)

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        return [self._rollout(request.example_id) for request in requests]

    def _rollout(self, id_: str) -> Rollout:
        at = id_.partition("#")[0]  # later turns have their number behind it
        task, state = self.worlds[at], self.states[at]
        luck = self.rng.random()
        move = str(self.rng.choice(task.actions)) if luck > self.skill else task.solve(state).plan[0]
        text = "I look around." if luck > 0.97 else f"I go on. <answer>{move}</answer>"
        if luck <= 0.97:
            self.states[at], _ = task.after(state, move)
        return Rollout(example_id=id_, token_ids=tuple(range(len(text) // 3)), text=text, finished=True)


def write_step_run(folder: Path, num_per_level: int = 6, seed: int = 0) -> list[Example]:
    """Two stages of episodes of several turns, by picture and by words."""
    worlds = {"frozenlake_steps": (3, 4), "minibehaviour_steps": (5,)}
    examples = [
        example
        for name, levels in worlds.items()
        for example in step_examples(name, levels, num_per_level, "test", seed)
    ]
    skill = {"base": {"image": 0.5, "text": 0.9}, "stage1": {"image": 0.85, "text": 0.92}}
    for stage, conditions in skill.items():
        for condition, right in conditions.items():
            evaluate(
                Walker(examples, right, seed=seed),  # pyright: ignore[reportArgumentType]
                examples,
                stage=stage,
                prompts="brief",
                max_new_tokens=64,
                out=folder,
                conditions=(condition,),
            )
    return examples


class Answerer:
    """Answers questions about pictures rightly as often as its skill says, else wrongly or without a box."""

    def __init__(self, examples: Sequence[Example], skill: float, seed: int = 0) -> None:
        self.examples = {example.id: example for example in examples}
        self.skill, self.rng = skill, np.random.default_rng(seed)

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        return [self._rollout(self.examples[request.example_id]) for request in requests]

    def _rollout(self, example: Example) -> Rollout:
        luck = self.rng.random()
        said = example.hidden["answer"] if luck < self.skill else "(0,1)"
        text = "no idea" if luck > 0.95 else f"I see it. </description> \\boxed{{{said}}}"
        return Rollout(
            example_id=example.id, token_ids=tuple(range(len(text) // 3)), text=text, finished=True
        )


def write_question_run(folder: Path, num_each: int = 2, seed: int = 0) -> list[Example]:
    """Two stages of answers to questions, of every condition about every world, and to one from elsewhere."""
    worlds = [(task, task.levels[0]) for task in TASKS]
    examples = list(
        iter_questions(worlds, QUESTION_KINDS, num_each * len(worlds) * len(QUESTION_KINDS), "test", seed)
    )
    examples.append(
        make_question(
            id="elsewhere-1",
            split="test",
            question="How many ships are there?",
            options=("one", "two"),
            answer="B",
            image=examples[0].image,
        )
    )
    for stage, right in {"base": 0.3, "stage1": 0.8}.items():
        evaluate(
            Answerer(examples, right, seed=seed),  # pyright: ignore[reportArgumentType]
            examples,
            stage=stage,
            prompts="brief",
            max_new_tokens=200,
            out=folder,
            conditions=("question",),
        )
    return examples


def write_many_rows(folder: Path, num_rows: int, seed: int = 0) -> Path:
    """One stage of image answers to `num_rows` levels of up to 8 x 8 cells, a third of them with planted faults.

    Scored as an evaluation scores them, but without an engine or pictures: for measuring what reads rows.
    """
    rng = np.random.default_rng(seed)
    path = folder / "eval" / "base.image.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    misread = ScriptedEngine([], {}, seed=seed)._misread
    seen: set[str] = set()
    with path.open("w") as lines:
        while len(seen) < num_rows:
            task = TASKS[len(seen) % len(TASKS)]
            level = int(rng.integers(4, 9)) if task.name != "minibehaviour" else int(rng.integers(5, 9))
            state = task.generate(level, rng)
            solution = task.solve(state)
            assert solution is not None
            id_ = f"{task.name}-{level}-{state_hash(task, state)[:12]}"
            if id_ in seen:
                continue
            seen.add(id_)
            response = reference_response(task, state, solution.plan)
            if rng.random() < 1 / 3:
                response = misread(response)
            scored = score(task, state, response)
            row = {
                "id": id_,
                "condition": "image",
                "task": task.name,
                "level": level,
                "difficulty": task.difficulty(state, len(solution.plan)),
                "split": "test",
                "state": task.to_json(state),
                "optimal_length": len(solution.plan),
                "view": "student",
                "messages": [{"role": "user", "content": [{"type": "text", "text": task.rules["full"]}]}],
                "response": response,
                "num_tokens": len(response) // 3,
                "finished": True,
                "outcome": scored.as_dict(),
                "fields": dict(scored.fields),
                "right": dict(scored.right),
                "error": None,
                "seconds": 0.01,
                "settings": {
                    "model": "scripted",
                    "prompts": "full",
                    "max_new_tokens": 512,
                    "temperature": 0.0,
                },
            }
            lines.write(json.dumps(row) + "\n")
    return path


def config(seed: int) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "command": "pilotage demo --out runs/demo",
        "recipe": {
            "name": "nano",
            "backbone": "nano",
            "seed": seed,
            "levels": [[task, list(levels)] for task, levels in LEVELS.items()],
            "cell_px": 32,
            "stages": [
                {"stage": "stage1", "steps": 150, "batch_size": 64, "learning_rate": 1e-3},
                {"stage": "stage2", "steps": 100, "batch_size": 64, "learning_rate": 3e-4},
            ],
        },
    }


def write_metrics(path: Path, seed: int, num_stage1: int = 150, num_stage2: int = 100) -> None:
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(num_stage1):
        loss = 0.02 + 1.6 * math.exp(-step / 28) * (1 + 0.12 * rng.normal())
        lines.append(
            {
                "stage": "stage1",
                "step": step,
                "time_s": 1.1 * step,
                "loss": loss,
                "lr": 1e-3,
                "grad_norm": 1 + rng.random(),
            }
        )
    for step in range(num_stage2):
        done = 1 - math.exp(-step / 22)

        def noisy(value: float, spread: float = 0.03) -> float:
            return float(np.clip(value + spread * rng.normal(), 0, 1))

        kl = {"state": 0.08, "route": 0.9, "answer": 0.5}
        spans = {
            f"kl/{name}": start * (1 - 0.93 * done) * (1 + 0.1 * rng.normal()) for name, start in kl.items()
        }
        length = 46 - 6 * done
        lines.append(
            {
                "stage": "stage2",
                "step": step,
                "time_s": 2.3 * step,
                "loss": spans["kl/route"],
                **spans,
                "kl/all": sum(spans.values()) / 3,
                "rollout/success": noisy(0.12 + 0.84 * done),
                **{
                    f"rollout/success/{task.name}": noisy(0.1 + (0.86 - 0.05 * i) * done)
                    for i, task in enumerate(TASKS)
                },
                "rollout/parsed": noisy(0.86 + 0.13 * done, 0.01),
                "rollout/truncated": noisy(0.06 * (1 - done), 0.01),
                "rollout/repetition": noisy(0.02 * (1 - done), 0.004),
                "rollout/length_mean": length + rng.normal(),
                "rollout/length_p05": length - 14 + rng.normal(),
                "rollout/length_p95": length + 22 + rng.normal(),
                "policy/entropy": 0.4 * (1 - 0.8 * done) + 0.01 * rng.random(),
                "teacher/agreement": noisy(0.82 + 0.16 * done, 0.01),
                "loss/cap_rate": noisy(0.1 * (1 - done), 0.01),
                "lr": 3e-4 * (1 - step / num_stage2),
                "grad_norm": 0.4 + 0.6 * (1 - done) * rng.random(),
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def state_of(example: Example) -> Any:
    return get_task(example.task).parse_state(example.state)


if __name__ == "__main__":
    from pilotage.report import write_report

    target = Path(sys.argv[1])
    write_run(target / "plans", num_per_task=100)
    write_step_run(target / "steps", num_per_level=20)
    write_question_run(target / "questions", num_each=8)
    for name in ("plans", "steps", "questions"):
        print(write_report(target / name))
