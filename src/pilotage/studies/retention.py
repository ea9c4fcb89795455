"""Language that a model had before it was trained: what is left of it, by the likelihood of plain sentences.

The sentences are ours, none is in the tasks' words, and no model was trained on them by us. The questions are no
world's and have no right answer, so that the engine is asked itself: there is nothing to play (`rollouts.play`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pilotage.backbones.load import Backbone
from pilotage.records import View
from pilotage.rollouts import Decoding
from pilotage.rollouts.engine import Request
from pilotage.rollouts.transformers_engine import TransformersEngine

SENTENCES = (
    "The bakery on the corner opens before sunrise, and by eight most of the bread is gone.",
    "Water boils at a lower temperature in the mountains because the air presses less on its surface.",
    "My grandmother kept her letters in a tin box under the bed and never showed them to anyone.",
    "A violin has four strings, which are tuned a fifth apart.",
    "When the train finally arrived, the platform was so full that nobody could get off.",
    "Most bees live alone, although people think first of those that live in hives.",
    "He apologised twice, once for being late and once for having forgotten the flowers.",
    "The committee will meet again in March to decide how the money should be spent.",
    "If you add the numbers from one to ten, you get fifty-five.",
    "Rain fell all night, and in the morning the garden smelled of wet earth.",
    "Paper was invented in China and reached Europe about a thousand years later.",
    "She speaks three languages well and a fourth one badly, but with great courage.",
    "The moon has no light of its own; it reflects that of the sun.",
    "Before you paint a wall, clean it, let it dry and cover the floor.",
    "The museum is closed on Mondays, so we walked along the river instead.",
    "Cats sleep for most of the day, because hunting takes short bursts of strength.",
    "Our neighbour repairs old radios, and sometimes one of them plays music from another country.",
    "A contract is an agreement that a court will enforce.",
    "The soup needs more salt, a little lemon and perhaps half an hour of patience.",
    "Glass is made by melting sand with soda and lime.",
    "They moved to the city for work and went back to the village for peace.",
    "The heart pumps blood through the lungs, where it takes up oxygen.",
    "Nobody knew who had left the piano in the middle of the square.",
    "To borrow a book, write your name and the date on the card inside its cover.",
)
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How many days are there in a week?",
    "Give me a short tip for learning a language.",
)
"""Asked in the chat format, for people to read the answers."""
MAX_ANSWER_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is left of a model's language."""

    log_likelihoods: tuple[float, ...]
    """Of each sentence: mean over its tokens but the first, in nats."""
    answers: tuple[str, ...]
    """To `QUESTIONS`, greedy, cut at `MAX_ANSWER_TOKENS`."""


@torch.no_grad()
def retention(backbone: Backbone, sentences: Sequence[str] = SENTENCES) -> Retention:
    """How likely plain sentences are, one at a time and without any prompt, and how plain questions are answered."""
    backbone.model.eval()
    found = []
    for sentence in sentences:
        ids_1S = backbone.tokenizer(sentence, add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids_1S = ids_1S.to(backbone.device)  # pyright: ignore[reportAttributeAccessIssue]
        logits_SV = backbone.model(input_ids=ids_1S, use_cache=False).logits[0, :-1].float()
        chosen_S = logits_SV.log_softmax(-1).gather(-1, ids_1S[0, 1:, None])
        found.append(float(chosen_S.mean()))
    views = [
        View(name="question", messages=({"role": "user", "content": question},)) for question in QUESTIONS
    ]
    requests = [Request(view=view, example_id=f"question {at}") for at, view in enumerate(views)]
    decoding = Decoding(max_new_tokens=MAX_ANSWER_TOKENS)
    answers = [rollout.text for rollout in TransformersEngine(backbone).generate(requests, decoding)]
    return Retention(log_likelihoods=tuple(found), answers=tuple(answers))
