"""vLLM as rollout engine, for models and lengths at which decoding is most of the time. Optional: `pilotage[vllm]`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pilotage.backbones.encode import render
from pilotage.backbones.load import Backbone
from pilotage.errors import PilotageError
from pilotage.records import Rollout, View
from pilotage.rollouts.engine import ProgressCallback, check_request

if TYPE_CHECKING:
    import torch

_FORBID = -100.0
"""vLLM adds this to a logit; e^-100 is never sampled."""


class VllmEngine:
    """Rollouts from a vLLM server in this process.

    The engine holds weights of its own: `take_weights` brings them up to the trainer's. Log-probs are recorded at
    temperatures 0 and 1 only, because vLLM reports them before the temperature is applied.
    """

    def __init__(self, backbone: Backbone, *, origin: str = "student", **llm_options: Any) -> None:
        """`backbone` gives tokenizer and chat template; `llm_options` go to `vllm.LLM` as they are.

        Raises PilotageError when vLLM is not installed.
        """
        try:
            import vllm  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise PilotageError(
                "the vLLM engine needs vLLM, which is not installed: pip install 'pilotage[vllm]' on a machine "
                "with a GPU, or use TransformersEngine"
            ) from error
        self.backbone = backbone
        self.origin = origin
        self._vllm = vllm
        # Its own choice would be pickle files where there are no safetensors.
        options = {"limit_mm_per_prompt": {"image": 1}, "load_format": "safetensors"} | llm_options
        self._llm = vllm.LLM(model=backbone.name, **options)

    def generate(
        self,
        views: Sequence[View],
        *,
        example_ids: Sequence[str],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        num_return: int = 1,
        progress: ProgressCallback | None = None,
    ) -> list[Rollout]:
        """`num_return` rollouts of each view, in the order of the views; see `RolloutEngine`."""
        check_request(
            views,
            example_ids=example_ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            num_return=num_return,
        )
        with_logprobs = temperature in (0.0, 1.0)
        settings = [
            self._vllm.SamplingParams(
                n=num_return,
                max_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed * 1_000_003 + index,
                logprobs=0 if with_logprobs else None,
                logit_bias=dict.fromkeys(self.backbone.vision_token_ids, _FORBID),
                stop_token_ids=list(self.backbone.eos_ids),
                skip_special_tokens=True,
            )
            for index in range(len(views))
        ]
        outputs = self._llm.generate(
            [self._request(view) for view in views], sampling_params=settings, use_tqdm=False
        )
        rollouts: list[Rollout] = []
        for example_id, output in zip(example_ids, outputs, strict=True):
            rollouts.extend(self._rollout(example_id, answer) for answer in output.outputs)
            if progress is not None:
                progress(num_return)
        return rollouts

    def _request(self, view: View) -> dict[str, Any]:
        request: dict[str, Any] = {"prompt": render(self.backbone, view)}
        if view.image is not None:
            from PIL import Image

            request["multi_modal_data"] = {"image": Image.open(io.BytesIO(view.image)).convert("RGB")}
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

    def take_weights(self, named_parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copies the trainer's weights (full ones: merge an adapter first) into the engine."""
        model = self._llm.llm_engine.model_executor.driver_worker.model_runner.model
        model.load_weights(named_parameters)
        self._llm.reset_prefix_cache()
