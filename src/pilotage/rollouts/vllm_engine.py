"""vLLM as rollout engine, for models and lengths at which decoding is most of the time. Optional: `pilotage[vllm]`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pilotage.backbones.load import Backbone
from pilotage.backbones.render import render
from pilotage.backbones.weights import whole_parameters
from pilotage.errors import PilotageError
from pilotage.pictures import read_rgb
from pilotage.records import Rollout, View
from pilotage.rollouts.engine import Decoding, Request, sampling_seed

_FORBID = -100.0
"""vLLM adds this to a logit; e^-100 is never sampled."""


class VllmEngine:
    """Rollouts from a vLLM server in this process.

    The engine holds weights of its own: `sync` brings them up to the trainer's. Log-probs are recorded at
    temperatures 0 and 1 only, because vLLM reports them before the temperature is applied.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        origin: str = "student",
        max_images: int = 1,
        max_prompt_tokens: int | None = None,
        max_model_len: int | None = None,
        **llm_options: Any,
    ) -> None:
        """`backbone` gives tokenizer and chat template; `llm_options` go to `vllm.LLM` as they are.

        vLLM sets memory aside for `max_images` images in a prompt, and refuses more. Prompt and answer have at most
        `max_model_len` tokens together; None: as many as its memory holds.

        Raises PilotageError when vLLM is not installed.
        """
        # In a process of its own its weights are out of reach of `sync`.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            import vllm  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise PilotageError(
                "the vLLM engine needs vLLM, which is not installed: pip install 'pilotage[vllm]' on a machine "
                "with a GPU, or use TransformersEngine"
            ) from error
        self.backbone = backbone
        self.origin = origin
        self.max_prompt_tokens = max_prompt_tokens
        self._vllm = vllm
        # Its own choice would be pickle files where there are no safetensors.
        options = {"limit_mm_per_prompt": {"image": max_images}, "load_format": "safetensors"} | llm_options
        # Left to itself it insists on memory for one answer of all the positions that the model has: at 262,144, 36 GiB
        # for a model of 4B.
        options["max_model_len"] = -1 if max_model_len is None else max_model_len
        self._llm = vllm.LLM(model=backbone.name, **options)

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Rollout]:
        """One rollout for each request, in their order; see `Engine`."""
        with_logprobs = decoding.temperature in (0.0, 1.0)
        settings = [
            self._vllm.SamplingParams(
                n=1,
                max_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k,
                seed=sampling_seed(request),
                logprobs=0 if with_logprobs else None,
                logit_bias=dict.fromkeys(self.backbone.vision_token_ids, _FORBID),
                stop_token_ids=list(self.backbone.eos_ids),
                skip_special_tokens=True,
            )
            for request in requests
        ]
        outputs = self._llm.generate(
            [self._request(request.view) for request in requests], sampling_params=settings, use_tqdm=False
        )
        return [
            self._rollout(request.example_id, answer)
            for request, output in zip(requests, outputs, strict=True)
            for answer in self._within(request, output).outputs
        ]

    def _within(self, request: Request, output: Any) -> Any:
        limit, ids = self.max_prompt_tokens, getattr(output, "prompt_token_ids", None)
        if limit is not None and ids is not None and len(ids) > limit:
            raise PilotageError(
                f"{request.example_id}: the prompt has {len(ids)} tokens, more than max_prompt_tokens {limit}"
            )
        return output

    def _request(self, view: View) -> dict[str, Any]:
        request: dict[str, Any] = {"prompt": render(self.backbone, view)}
        if view.images:
            request["multi_modal_data"] = {"image": [read_rgb(image) for image in view.images]}
        return request

    def _rollout(self, example_id: str, answer: Any) -> Rollout:
        token_ids = tuple(answer.token_ids)
        logprobs: tuple[float, ...] = ()
        if answer.logprobs is not None:
            logprobs = tuple(
                entry[token].logprob for token, entry in zip(token_ids, answer.logprobs, strict=True)
            )
        return Rollout(
            example_id=example_id,
            token_ids=token_ids,
            text=self.backbone.decode(token_ids),
            finished=answer.finish_reason == "stop",
            logprobs=logprobs,
            origin=self.origin,
        )

    def sync(self, model: Any) -> None:
        """Copies the weights of `model` into the engine, an adapter added to what it adapts."""
        engine = self._llm.llm_engine
        engine.model_executor.driver_worker.model_runner.model.load_weights(whole_parameters(model))
        # What earlier weights made of prompts and of pictures must not be used again.
        self._llm.reset_prefix_cache()
        engine.reset_encoder_cache()
