"""Compute the loss of a causal model only at labeled positions, in little memory.

    model(labels=...)    give_losses: hidden states of labeled positions -> loss of each
    frozen head          frozen_head_loss: logits a block at a time, each with its gradient
    trained head         head_loss: logits a block at a time, computed again for the gradient
    scaled logits        the model's own logits, in the columns with a label
    another trainer      pairs_kl: the same with plain logits, in any loop; PairsKL for TRL

The target of a position is a token (cross-entropy), or the distribution of a teacher
(Kullback-Leibler divergence, KL). The teacher is the untrained model, so a row of which only
distributions are targets has no gradient at the start, for any text.

The head is as wide as the vocabulary: its logits take most of a small model's memory and much of
its work. The whole pass runs inside the model's own call, because sharding and the averaging of
gradients depend on that call.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch.nn.functional import cross_entropy

from delia_data.tokens import DEFAULT_TOKEN
from delia_data.training.packing import IGNORED

_BLOCK_BYTES: Final = {"cpu": 2**26}
_DEFAULT_BLOCK_BYTES: Final = 2**30
_SCALED_LOGITS: Final = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)
"""Settings of models whose logits are more than states times the head."""
_LOWEST: Final = -1e30
"""Logit of an excluded token; finite, so that 0 times a difference of logits is 0."""


class Teacher(NamedTuple):
    """The untrained model at labeled positions, as the target of its pairs.

    Attributes:
        states: Hidden states of shape (positions, width); logits if the head is an identity.
        head: The head that turns them into logits; None for the head of the model in training,
            which is then frozen.
    """

    states: torch.Tensor
    head: torch.nn.Module | None = None


def give_losses(model: Any, *, token_ids: Sequence[int] = ()) -> None:
    """Make a causal model return the sum of losses, and each of them, when it gets labels.

    With `states_only` it returns a `Teacher` instead: its view of the labeled positions. With
    `teacher` and `is_task`, the target of labeled tokens outside task rows is the teacher's
    distribution, in the order of the positions. Without labels its forward pass is unchanged.

    Args:
        model: The model, inside the wrappers of PEFT and accelerate.
        token_ids: Tokens whose rows are trained; the distributions of a teacher leave them out.
            They stay in the cross-entropy, which keeps the model from writing them.
    """
    own_forward = model.forward

    def forward(
        self: Any,
        *args: Any,
        labels: torch.Tensor | None = None,
        is_task: torch.Tensor | None = None,
        teacher: Teacher | None = None,
        states_only: bool = False,
        **given: Any,
    ) -> Any:
        if labels is None:
            return own_forward(*args, **given)
        labeled = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][labeled]
        config, head = self.config.get_text_config(), self.get_output_embeddings()
        if any(getattr(config, name, None) is not None for name in _SCALED_LOGITS):
            states, head = _own_logits(own_forward, labeled, *args, **given), torch.nn.Identity()
            whole = states
        else:
            whole = self.base_model(*args, **given).last_hidden_state[:, :-1]
            states = whole[labeled]
        if states_only:
            return Teacher(states, head if isinstance(head, torch.nn.Identity) else None)
        if not len(targets):
            return whole.float().sum() * 0, whole.new_zeros(0, dtype=torch.float32)
        frozen = _frozen_parts(head)

        def loss(states: torch.Tensor, goal: torch.Tensor | Teacher) -> Any:
            masked = token_ids if isinstance(goal, Teacher) else ()
            if frozen is None:
                return head_loss(states, head, goal, masked_ids=masked)
            states = states.to(frozen["weight"].dtype)
            return frozen_head_loss(states, targets=goal, masked_ids=masked, **frozen)

        if teacher is None or is_task is None:
            return loss(states, targets)
        taught = ~is_task[:, 1:][labeled]
        total, task_losses = loss(states[~taught], targets[~taught])
        divergence, pair_losses = loss(states[taught], teacher)
        losses = task_losses.new_empty(len(targets))
        losses[~taught], losses[taught] = task_losses, pair_losses
        return total + divergence, losses

    # `generate` looks for arguments such as position_ids in the signature.
    parameters = inspect.signature(own_forward).parameters.values()
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)


def frozen_head_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor | Teacher,
    *,
    rows: torch.Tensor | None = None,
    row_ids: Sequence[int] = (),
    bias: torch.Tensor | None = None,
    masked_ids: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss under a head of which at most a few rows are trained.

    The loss of a position is the cross-entropy of its token, or the KL from its teacher's
    distribution. Logits are computed a block of positions at a time, and the gradient of each
    block while its logits are there: none are kept, and none are computed twice.

    Args:
        hidden: States of shape (positions, width).
        weight: The head, of shape (vocabulary, width); gets no gradient.
        targets: Ids of shape (positions,), or the teacher.
        rows: The trained rows of shape (tokens, width), in place of the head's own.
        row_ids: Their ids.
        bias: The head's bias of shape (vocabulary,); gets no gradient.
        masked_ids: Ids that are left out of every distribution.

    Returns:
        The sum of the losses, and the loss of each position in float32, which has no gradient.
    """
    states, head = targets if isinstance(targets, Teacher) else (None, None)
    ids = None if isinstance(targets, Teacher) else targets
    apply: Any = _FrozenHead.apply
    masked = list(masked_ids)
    total, losses = apply(hidden, weight, ids, rows, list(row_ids), bias, masked, states, head)
    return total, losses


def head_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor | Teacher,
    *,
    masked_ids: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same through a head that is trained itself, or is more than a product.

    The logits of a block are computed again for its gradient, unless there is only one block.
    """
    from torch.utils.checkpoint import checkpoint

    own = (targets.head or head) if isinstance(targets, Teacher) else None

    def losses(states: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        logits = _mask(head(states).float(), masked_ids)
        if own is None:
            return cross_entropy(logits, goal, reduction="none")
        with torch.no_grad():
            wanted = _mask(own(goal).float(), masked_ids).log_softmax(1)
        return (wanted.exp() * (wanted - logits.log_softmax(1))).sum(1)

    goals = targets.states if isinstance(targets, Teacher) else targets
    wide = hidden.shape[1] if isinstance(head, torch.nn.Identity) else len(head.weight)  # type: ignore[arg-type]
    blocks = list(_blocks(hidden, goals, wide))
    if len(blocks) == 1:
        each = losses(hidden, goals)
    else:
        parts = [checkpoint(losses, *block, use_reentrant=False) for block in blocks]
        each = torch.cat(parts)
    return each.sum(), each.detach()


def _mask(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    where = torch.tensor(list(ids), dtype=torch.long, device=logits.device)
    return logits.index_fill(1, where, _LOWEST)


def pairs_kl(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    token_ids: int | Sequence[int],
    *,
    items: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Return the loss of a batch in a training loop of your own.

    It is the mean over labeled tokens: cross-entropy in rows that contain a special token, and the
    KL divergence from the untrained model in all others, over the vocabulary without these tokens.

    Args:
        model: A PEFT model, which without its adapter is the untrained model.
        batch: `input_ids`, `labels` (-100 where no loss is taken) and, with padding,
            `attention_mask`, of shape (rows, length). Each row is one example: no packing.
        token_ids: Id of the special token, or ids of several.
        items: Number of labeled tokens to divide by; default: those of the batch.
    """
    own_ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
    labeled = batch["labels"][:, 1:] != IGNORED
    targets = batch["labels"][:, 1:][labeled]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}

    def logits() -> torch.Tensor:
        seen: torch.Tensor = model(**inputs).logits[:, :-1][labeled]
        return seen.float()

    own, was_training = logits(), model.training
    model.eval()
    with torch.no_grad(), getattr(model, "module", model).disable_adapter():
        teacher = _mask(logits(), own_ids).log_softmax(1)
    model.train(was_training)
    special = torch.isin(batch["input_ids"], torch.tensor(own_ids, device=labeled.device))
    is_task = special.any(1, keepdim=True).expand_as(labeled)[labeled]
    entropy = cross_entropy(own, targets, reduction="none")
    divergence = (teacher.exp() * (teacher - _mask(own, own_ids).log_softmax(1))).sum(1)
    losses = torch.where(is_task, entropy, divergence)
    return losses.sum() / (labeled.sum() if items is None else items)


class PairsKL:
    """Mixin that gives TRL's `SFTTrainer` the loss of `pairs_kl`.

    Write `class Trainer(PairsKL, SFTTrainer): token = "<sep>"` (or a tuple of tokens), and train
    with `peft_config` and without packing.
    """

    token: str | tuple[str, ...] = DEFAULT_TOKEN

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch, as the trainer calls it."""
        trainer: Any = self
        tokens = [self.token] if isinstance(self.token, str) else list(self.token)
        token_ids = trainer.processing_class.convert_tokens_to_ids(tokens)
        loss = pairs_kl(model, inputs, token_ids, items=num_items_in_batch)
        if num_items_in_batch is not None:  # processes average their gradients
            loss = loss * trainer.accelerator.num_processes
        return (loss, {}) if return_outputs else loss


def read_rows_in_place(model: torch.nn.Module) -> None:
    """Make every embedding with trained rows read them without a copy of itself.

    PEFT writes trained rows into a copy of the embedding for each forward pass, and autograd makes
    a gradient as large as the embedding of it: for a small model, as much memory traffic as the
    model itself. Here the frozen embedding is read as it is, and the rows replace their ids'.
    """
    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and isinstance(
            module.base_layer, torch.nn.Embedding
        ):
            module.forward_adapters = types.MethodType(_embed, module)


def _embed(self: Any, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the result of `TrainableTokensLayer.forward_adapters`, for ids of any shape."""
    if not _is_simple(self, active_adapters):
        return type(self).forward_adapters(self, x, active_adapters, *args, **kwargs)
    states = self.base_layer(x, *args, **kwargs)
    scale = self._get_embed_scale()
    rows = self.trainable_tokens_delta[active_adapters[0]]
    for row, row_id in zip(rows, self.token_indices[active_adapters[0]], strict=True):
        own = row.to(states.dtype) if scale is None else row.to(states.dtype) * scale
        states = torch.where((x == row_id)[..., None], own, states)
    return states


def _is_simple(layer: TrainableTokensLayer, active: Any) -> bool:
    """Return whether a single adapter is active, and is not merged."""
    return len(active) == 1 and not layer.disable_adapters and not layer.merged


def _frozen_parts(head: Any) -> dict[str, Any] | None:
    """Return a head's weight, bias and trained rows, if no more of it is trained.

    A weight that is sharded over processes is gathered.
    """
    layer = getattr(head, "token_adapter", None)
    rows, ids = None, list[int]()
    if isinstance(layer, TrainableTokensLayer):
        active = layer.active_adapters
        ids = layer.token_indices[active[0]] if _is_simple(layer, active) else []
        head = layer.base_layer
        plain = isinstance(head, torch.nn.Linear) and getattr(head, "bias", None) is None
        if not ids or not plain:
            return None
        rows = layer.trainable_tokens_delta[active[0]]
    elif type(head) is not torch.nn.Linear:
        return None
    if head.weight.requires_grad:
        return None
    gather = getattr(head.weight, "full_tensor", None)
    weight = head.weight if gather is None else gather()
    return {"weight": weight, "bias": head.bias, "rows": rows, "row_ids": ids}


def _own_logits(own_forward: Any, labeled: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
    """Return the logits that the model makes itself, at labeled positions."""
    columns = labeled.any(0).nonzero()[:, 0]
    if not len(columns):
        columns = torch.zeros(1, dtype=torch.long, device=labeled.device)
    logits: torch.Tensor = own_forward(*args, logits_to_keep=columns, **given).logits
    return logits[labeled[:, columns]]


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor | None,
        rows: torch.Tensor | None,
        row_ids: list[int],
        bias: torch.Tensor | None,
        masked_ids: list[int],
        teacher: torch.Tensor | None,
        teacher_head: torch.nn.Module | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = [] if rows is None else list(zip(row_ids, rows.to(hidden.dtype), strict=True))
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
        to_rows = None if rows is None else torch.zeros_like(rows, dtype=torch.float32)
        begin = 0
        goals = targets if teacher is None else teacher
        assert goals is not None
        for states, goal in _blocks(hidden, goals, len(weight)):
            part = slice(begin, begin + len(goal))
            begin += len(goal)
            logits = (states @ weight.T).float()
            if bias is not None:
                logits += bias
            for row_id, row in own:
                logits[:, row_id] = states @ row if bias is None else states @ row + bias[row_id]
            logits[:, masked_ids] = _LOWEST
            logits.sub_(logits.logsumexp(1, keepdim=True))
            share = None
            if teacher is None:
                losses[part] = -logits.gather(1, goal[:, None])[:, 0]
            else:
                wanted = _teacher_logits(goal, weight, bias, teacher_head)
                wanted[:, masked_ids] = _LOWEST
                wanted.sub_(wanted.logsumexp(1, keepdim=True))
                share = wanted.exp()
                losses[part] = torch.linalg.vecdot(share, wanted.sub_(logits))
            if to_hidden is None and to_rows is None:
                continue
            slopes = logits.exp_()
            if share is None:
                slopes[torch.arange(len(goal), device=goal.device), goal] -= 1
            else:
                slopes -= share
            slopes = slopes.to(hidden.dtype)
            columns = [slopes[:, row_id].clone() for row_id, _ in own]
            slopes[:, row_ids] = 0
            if to_rows is not None:
                for number, column in enumerate(columns):
                    to_rows[number] += (column @ states).float()
            if to_hidden is not None:
                torch.mm(slopes, weight, out=to_hidden[part])
                for column, (_, row) in zip(columns, own, strict=True):
                    to_hidden[part].addr_(column, row)
        ctx.save_for_backward(
            to_hidden, None if rows is None or to_rows is None else to_rows.to(rows.dtype)
        )
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> Any:
        to_hidden, to_rows = ctx.saved_tensors
        return (
            None if to_hidden is None else to_hidden * slopes[0].to(to_hidden.dtype),
            None,
            None,
            None if to_rows is None else to_rows * slopes[0].to(to_rows.dtype),
            *[None] * 5,
        )


def _teacher_logits(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    head: torch.nn.Module | None,
) -> torch.Tensor:
    """Return a teacher's logits in float32, through its own head or the frozen one."""
    if head is not None:
        return torch.as_tensor(head(states)).float()
    logits = (states.to(weight.dtype) @ weight.T).float()
    return logits if bias is None else logits.add_(bias)


def _blocks(hidden: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> Any:
    """Cut positions into blocks whose logits in float32 stay small."""
    size = _BLOCK_BYTES.get(hidden.device.type, _DEFAULT_BLOCK_BYTES)
    rows = max(1, size // (4 * vocabulary))
    return zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
