"""How much memory a stage takes at its largest moment, told from shapes: no weight is needed.

A step has phases that are not in memory together: rollouts are decoded, teachers score them, the student goes forward
and backward, the optimiser updates. What stays (weights, optimiser states) is added to the largest of them. Tensors are
counted as transformers' layers keep them for the backward; `benchmarks/memory_estimate.py` holds that against steps
that were made.

H hidden, A all heads together, K key-value heads together, I the width of the MLP, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pilotage.backbones.load import Backbone
from pilotage.distill.chunked import buffer_bytes
from pilotage.distill.estimators import Sampled
from pilotage.records import Example
from pilotage.train.batch_shapes import Batch, StepBatches, distill_batches, sft_batches
from pilotage.train.distill_config import EMA, DistillConfig, GatedRefresh
from pilotage.train.sft_config import SftConfig

CONTEXT_BYTES, ROUNDING = 2**29, 0.05
"""What a GPU's driver and libraries take for themselves, and the share that an allocator loses to rounding."""
MOST_LOGITS = 2**26
"""On a CPU, supervised fine-tuning projects the answers of a micro-batch whole up to so many logits."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part."""

    lasting: Mapping[str, int]
    """There at every moment of a step."""
    phases: Mapping[str, Mapping[str, int]]
    """Phase -> what it holds besides."""

    @property
    def phase(self) -> str:
        """The largest."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, int]:
        """Those of the largest moment, largest first."""
        found = {**self.lasting, **self.phases[self.phase]}
        return dict(sorted(((name, size) for name, size in found.items() if size), key=lambda one: -one[1]))

    @property
    def together(self) -> int:
        """At the largest moment."""
        return sum(self.lasting.values()) + max(sum(parts.values()) for parts in self.phases.values())

    @property
    def on_gpu(self) -> int:
        """The same with what a GPU loses to context and allocator."""
        return int(self.together * (1 + ROUNDING)) + CONTEXT_BYTES


@dataclass(frozen=True, kw_only=True)
class Block:
    """One layer of the language model or of the vision tower, as its activations depend on it."""

    number: int
    """How many there are."""
    hidden: int
    heads: int
    attention: int
    """A."""
    keys: int
    """K."""
    mlp: int
    """I, of all experts that a token goes through."""
    is_gated: bool
    norms: tuple[int, ...]
    """Widths of its norms over H, of which each goes into attention or MLP."""
    head_norms: int
    """Width of the norms of queries and keys together; 0 for none."""
    fused: bool
    """One product makes queries, keys and values."""
    fast_norms: bool
    """Norms are one operation of torch, which keeps no float32 copy."""
    trains: bool
    """Its own weights do."""
    adapted: int
    """Sum of the input widths of its adapted layers."""
    windows: tuple[int | None, ...] = ()
    """Of each layer; None where it sees the whole past."""

    @property
    def num_inputs(self) -> int:
        """Products that read a norm's output."""
        return (1 if self.fused else 3) + (2 if self.is_gated else 1)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What activations depend on."""

    text: Block
    vision: Block | None
    vocabulary: int
    weight_bytes: int
    """Of a number of a weight that does not train as a master."""
    computes: int
    """Bytes of a number in matrix products."""
    residual: int
    """Bytes of a number of the residual stream."""
    attention: str
    head_trains: bool
    patch_numbers: int = 0
    """Of a picture's patch, before the tower."""

    @property
    def autocast(self) -> bool:
        return self.residual > self.computes


def base_of(backbone: Backbone) -> Any:
    """The model without its adapter's wrapping."""
    model = backbone.model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shape_of(backbone: Backbone, *, bf16: bool, attention: str | None = None) -> Shape:
    """Read off the model's modules and configuration; shapes are enough."""
    base = base_of(backbone)
    config = base.config.get_text_config()
    first = next(parameter for parameter in base.parameters() if parameter.is_floating_point())
    size = first.element_size()
    autocast = (bf16 or backbone.computes_in is not None) and size == 4
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    num_kv = getattr(config, "num_key_value_heads", None) or heads
    text = vision = None
    for name, module in base.named_modules():
        if not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if not any("attn" in inner or "attention" in inner for inner, _ in module[0].named_modules()):
            continue
        if backbone.family.is_vision(name + "."):
            settings = base.config.vision_config
            width = getattr(settings, "hidden_size", None) or settings.embed_dim
            width = _width_of(module[0], width)
            count = getattr(settings, "num_heads", None) or getattr(settings, "num_attention_heads", 1)
            vision = vision or _block(
                module, hidden=width, heads=count, attention=width, keys=width, config=None
            )
        elif len(module) == config.num_hidden_layers:
            text = text or _block(
                module,
                hidden=config.hidden_size,
                heads=heads,
                attention=heads * head_dim,
                keys=num_kv * head_dim,
                config=config,
            )
    if text is None:
        # Layers that are kept in another way than in a list: by what the configuration says, all of one kind.
        text = Block(
            number=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            attention=heads * head_dim,
            keys=num_kv * head_dim,
            mlp=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            is_gated=True,
            norms=(config.hidden_size, config.hidden_size),
            head_norms=0,
            fused=False,
            fast_norms=False,
            trains=any(parameter.requires_grad for parameter in base.parameters()),
            adapted=0,
            windows=(None,) * config.num_hidden_layers,
        )
    used = attention or config._attn_implementation or "sdpa"
    vision_config = getattr(base.config, "vision_config", None)
    side = getattr(vision_config, "patch_size", 0)
    side = int(side[0]) if isinstance(side, list | tuple) else int(side or 0)
    frames = getattr(vision_config, "temporal_patch_size", 1) or 1
    return Shape(
        text=text,
        vision=vision,
        vocabulary=config.vocab_size,
        weight_bytes=size,
        computes=2 if autocast else size,
        residual=size,
        attention=used,
        head_trains=bool(base.get_output_embeddings().weight.requires_grad),
        patch_numbers=3 * frames * side**2,
    )


def _width_of(block: nn.Module, width: int) -> int:
    """H of a vision layer: towers that shrink on the way say another in their settings."""
    for name, module in block.named_modules():
        if "norm" in name.lower() and (weight := getattr(module, "weight", None)) is not None:
            return int(weight.shape[0])
    return width


def _block(
    blocks: nn.ModuleList, *, hidden: int, heads: int, attention: int, keys: int, config: Any
) -> Block:
    # Where layers differ (a state in place of attention in some), the last is one with attention.
    block = blocks[len(blocks) - 1]
    linears: dict[str, Any] = {
        name: module
        for name, module in block.named_modules()
        if hasattr(module, "in_features") and "lora_" not in name and not name.endswith("base_layer")
    }
    norms, head_norms, fast = [], 0, False
    for name, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if "norm" not in name.lower() or weight is None or weight.ndim != 1:
            continue
        fast = fast or isinstance(module, nn.LayerNorm)
        if weight.shape[0] == hidden:
            norms.append(hidden)
        else:
            head_norms += attention if "q_" in name else keys
    mlp = [m.out_features for n, m in linears.items() if "attn" not in n and m.out_features > hidden]
    width = max(mlp) if mlp else 4 * hidden
    is_gated = any("gate" in name and "attn" not in name for name in linears)
    if any("experts" in name for name, _ in block.named_modules()) and config is not None:
        chosen = getattr(config, "num_experts_per_tok", None) or 1
        width = chosen * (getattr(config, "moe_intermediate_size", None) or width)
        is_gated = True
    kinds = getattr(config, "layer_types", None) or ()
    window = getattr(config, "sliding_window", None)
    own = [p for n, p in block.named_parameters() if "lora_" not in n]
    return Block(
        number=len(blocks),
        hidden=hidden,
        heads=heads,
        attention=attention,
        keys=keys,
        mlp=width,
        is_gated=is_gated,
        norms=tuple(norms),
        head_norms=head_norms,
        fused=any("qkv" in name for name in linears),
        fast_norms=fast,
        trains=any(parameter.requires_grad for parameter in own),
        adapted=sum(module.in_features for module in linears.values() if hasattr(module, "lora_A")),
        windows=tuple(window if "sliding" in str(kind) else None for kind in kinds) or (None,) * len(blocks),
    )


# -- bytes of a layer -------------------------------------------------------------------------------------------------


def kept_bytes(block: Block, shape: Shape, *, num_seen: int) -> int:
    """Bytes that one layer keeps of one token for its backward; `num_seen` columns are attended to.

    Zero for a layer in front of everything that trains.
    """
    if not (block.trains or block.adapted):
        return 0
    c, r, full = shape.computes, shape.residual, block.trains
    small = shape.weight_bytes == 2
    h, a, k = block.hidden, block.attention, block.keys
    # Norms. The residual stream is kept by what is computed of it in float32.
    if block.fast_norms:
        norms = len(block.norms) * h * (4 if shape.autocast else c)
        outputs = 0 if shape.autocast else 2 * h * c
    else:
        norms = len(block.norms) * h * (4 + (c if small else 4) * full)
        outputs = 0 if shape.autocast else 2 * h * c
        norms += block.head_norms * (4 + (c if small else 4) * full)
    # Under autocast each product makes its own copy of what it reads.
    copies = block.num_inputs * h * 2 if shape.autocast else 0
    if not full:
        # A frozen layer keeps nothing that only its weights' gradients need; an adapter reads in float32.
        outputs = 0 if small else outputs
        copies = block.adapted * 4 if small else copies
    if shape.attention == "eager":
        seen = num_seen * block.heads * (4 + (2 if c == 2 else 0))
        attention = seen + c * 4 * a
    elif block.fused:
        attention = c * 7 * a
    else:
        attention = c * (2 * a + 2 * k)
    wide = 4 if block.is_gated else 2
    if not full and small:
        wide -= 1
    return norms + outputs + copies + attention + wide * block.mlp * c + (r * h if shape.autocast else 0)


def passing_bytes(block: Block, shape: Shape, *, num_seen: int, training: bool) -> int:
    """Bytes that one token takes while a layer is computed, and for its gradients while it is gone back through."""
    c, r = shape.computes, shape.residual
    mlp = (3 if block.is_gated else 2) * block.mlp * c + 2 * block.hidden * r
    attention = c * (2 * block.attention + 2 * block.keys) + 3 * block.hidden * r
    if shape.attention == "eager":
        attention += num_seen * block.heads * (8 if c == 4 else 6)
    if training:
        # The backward comes to the MLP first, whose own part is gone when it reaches attention.
        attention -= (4 if block.is_gated else 2) * block.mlp * c
    return max(mlp, attention)


def backward_parts(shape: Shape, batch: Batch, *, recompute: bool, logits: int) -> dict[str, int]:
    """What the student's forward leaves for its backward, and the larger of what comes and goes: logits, or one layer.

    When gradients reach the layers, the logits are gone.
    """
    text, vision = shape.text, shape.vision
    per_token = kept_bytes(text, shape, num_seen=batch.num_columns)
    edge = text.hidden * shape.residual
    # Behind the layers: embeddings, the last norm and its output.
    read = batch.num_tokens - batch.num_shared
    kept = read * (text.number * (edge if recompute else per_token) + 5 * edge)
    # Keys and values of a shared beginning are copied to its rows.
    kept += batch.num_shared * text.number * text.keys * (shape.residual + shape.computes)
    once = [read * passing_bytes(text, shape, num_seen=batch.num_columns, training=True)]
    if recompute:
        once[0] += read * per_token
    pictures = batch.num_patches * shape.patch_numbers * 4
    of_patch = 0
    if vision is not None and batch.num_patches:
        of_patch = kept_bytes(vision, shape, num_seen=batch.most_patches)
    if vision is not None and of_patch:
        edge = vision.hidden * shape.residual
        pictures += batch.num_patches * (vision.number * (edge if recompute else of_patch) + 6 * edge)
        if recompute:
            passing = passing_bytes(vision, shape, num_seen=batch.most_patches, training=True)
            once.append(batch.num_patches * (of_patch + passing))
    found = {"activations": kept, "pictures": pictures}
    return found | ({"logits": logits} if logits > max(once) else {"one layer": max(once)})


def reading_bytes(shape: Shape, batch: Batch, *, num_columns: int) -> int:
    """What a forward without gradients takes at its widest."""
    text, vision = shape.text, shape.vision
    of_token = passing_bytes(text, shape, num_seen=num_columns, training=False)
    size = batch.num_rows * num_columns * (of_token + text.hidden * shape.residual)
    if vision is not None and batch.num_patches:
        of_patch = passing_bytes(vision, shape, num_seen=batch.most_patches, training=False)
        size = max(size, batch.num_patches * of_patch)
    return size + batch.num_patches * shape.patch_numbers * 4


def cache_bytes(shape: Shape, batch: Batch, *, room: int = 32) -> int:
    """Keys and values of rollouts at their full length, and one layer's while its buffers grow."""
    text = shape.text
    # Under autocast rotated keys are float32, values are not.
    of_token = text.keys * (shape.residual + shape.computes)
    columns = batch.num_columns + room
    seen = [min(columns, window or columns) for window in text.windows]
    return batch.num_rows * of_token * (sum(seen) + 2 * max(seen))


def logit_bytes(
    shape: Shape, batch: Batch, *, chunked: bool, on_gpu: bool, num_heads: int, passes: float
) -> int:
    """The head's part of the student's backward: logits, their gradients, and the gradient of its weights."""
    weight = shape.vocabulary * shape.text.hidden
    gradient = weight * 4 if shape.head_trains else 0
    if shape.head_trains and shape.weight_bytes == 2:
        gradient += weight * 2
    if shape.autocast and chunked and on_gpu:
        gradient += weight * 2
    if not chunked:
        logits = batch.num_active * shape.vocabulary
        return max(logits * (12 + (4 if shape.autocast else 0)), logits * 4 + gradient)
    row = shape.vocabulary * 4 * num_heads
    logits = min(batch.num_active * row, buffer_bytes(on_gpu=on_gpu)) if row else 0
    # On a CPU passes are made in tiles that are small beside the buffers.
    return int(logits * (passes if on_gpu else 1.0)) + gradient


# -- stages -----------------------------------------------------------------------------------------------------------


def weights_of(backbone: Backbone) -> int:
    """Bytes of all parameters."""
    return sum(p.numel() * p.element_size() for p in backbone.model.parameters())


def stage_memory(
    config: DistillConfig | SftConfig,
    student: Backbone,
    teachers: Sequence[Backbone],
    examples: Sequence[Example],
    *,
    on_gpu: bool,
    engine_rows: int = 64,
    engine_weights: bool = False,
    attention: str | None = None,
) -> Memory:
    """Of a student as `prepared` leaves it. `teachers` are the models that stand beside it.

    `engine_rows` are decoded at once; with `engine_weights` rollouts come from elsewhere.
    """
    bf16 = config.bf16 or student.computes_in is not None
    shape = shape_of(student, bf16=bf16, attention=attention)
    training = [p for p in student.model.parameters() if p.requires_grad]
    trained = sum(p.numel() * p.element_size() for p in training)
    lasting = {
        "student": weights_of(student),
        "optimiser": sum(p.numel() * config.optimiser.state_bytes(p.element_size()) for p in training),
        "teacher": sum(weights_of(teacher) for teacher in teachers if teacher is not student),
    }
    # Under autocast each product's weight has a copy, once in a forward; embeddings are looked up.
    copies = sum(p.numel() for p in training if p.ndim >= 2) - shape.vocabulary * shape.text.hidden
    copied = {"bf16 copies": 2 * max(copies, 0)} if shape.autocast else {}
    begun = {"gradients": trained, **copied}
    if isinstance(config, SftConfig):
        recompute = config.recomputes(on_gpu=on_gpu)
        found = []
        for batch in (batch for step in sft_batches(config, student, examples) for batch in step):
            few = batch.num_active * shape.vocabulary <= MOST_LOGITS
            logits = logit_bytes(
                shape, batch, chunked=on_gpu or not few, on_gpu=on_gpu, num_heads=1, passes=1.0
            )
            found.append(begun | backward_parts(shape, batch, recompute=recompute, logits=logits))
        return Memory(lasting=lasting, phases={"student": max(found, key=lambda parts: sum(parts.values()))})
    moving = sum(isinstance(weights, EMA | GatedRefresh) for weights in config.all_weights)
    lasting["moving teacher"] = moving * sum(max(4, p.element_size()) * p.numel() for p in training)
    small = [p for p in training if p.element_size() < 4]
    step = distill_batches(config, student, examples, engine_rows=engine_rows)
    phases = {"student": begun | _student_part(config, shape, step, on_gpu=on_gpu)}
    if not engine_weights:
        phases["rollouts"] = copied | _rollout_part(shape, step.rollouts[0])
    if step.teachers:
        batch = max((batches[0] for batches in step.teachers), key=lambda one: one.num_tokens)
        # A teacher that is larger than the student reads, and is kept, in its own width.
        shapes = [shape, *(shape_of(teacher, bf16=bf16, attention=attention) for teacher in teachers)]
        reading = max(reading_bytes(one, batch, num_columns=batch.num_columns) for one in shapes)
        phases["teachers"] = {
            "teachers' states": max(_states(one, step) for one in shapes),
            "reading": reading,
            # A moving teacher reads in the student's own precision, of which it has a copy made of what it keeps.
            "moving teacher's copy": sum(p.numel() * p.element_size() for p in small) if moving else 0,
        }
        # Its head stays until the step's loss is made.
        head = base_of(student).get_output_embeddings().weight
        phases["student"]["moving teacher's head"] = (
            sum(p.numel() * p.element_size() for p in small if p is head) if moving else 0
        )
    return Memory(lasting=lasting, phases=phases)


def _rollout_part(shape: Shape, batch: Batch) -> dict[str, int]:
    # The distribution of the next token in float32: as it is, in log-probabilities, sorted, and its noise.
    logits = batch.num_rows * shape.vocabulary * 4 * 4
    reading = reading_bytes(shape, batch, num_columns=batch.num_prompt)
    cache = cache_bytes(shape, batch)
    read = cache * batch.num_prompt // batch.num_columns
    # Prompts are read while the cache holds no more than them.
    if read + reading > cache + logits:
        return {"KV cache": read, "reading prompts": reading}
    return {"KV cache": cache, "next tokens": logits}


def _states(shape: Shape, step: StepBatches) -> int:
    """What teachers found of all rows of the step, and the rows' pictures."""
    rows = sum(batch.num_active for batches in step.teachers for batch in batches)
    pictures = sum(batch.num_patches for batch in step.student) * shape.patch_numbers * 4
    return rows * shape.text.hidden * shape.residual + pictures


def _student_part(config: DistillConfig, shape: Shape, step: StepBatches, *, on_gpu: bool) -> dict[str, int]:
    batch = max(step.student, key=lambda one: one.num_tokens)
    has_teacher = any(route.has_teacher for route in config.router.routes)
    sampled = all(isinstance(route.estimator, Sampled) for route in config.router.routes)
    logits = logit_bytes(
        shape,
        batch,
        chunked=True,
        on_gpu=on_gpu,
        num_heads=2 if has_teacher else 1,
        # Beside the buffers: probabilities of one or both models, summands and slopes of whole rows.
        passes=1.5 if sampled else 3.0,
    )
    parts = backward_parts(shape, batch, recompute=config.gradient_checkpointing, logits=logits)
    return {**parts, "teachers' states": _states(shape, step)}


def gib(size: float) -> float:
    return size / 2**30
