"""Train the pocket model: JAX and optax, on two CPU cores or one accelerator.

The network is `gptoss_edu`'s own: attention, router, SwiGLU, norm and RoPE are called as they are.
Four things make training fast, and each is tested against the plain forward pass:

- the system message is the same in every row, so its keys and values are computed once per step
  and offered to all rows as a `KV` of attention's (`PrefixKV`);
- rows are sorted into buckets by length, and the experts see all buckets at once;
- each expert gets a fixed number of places, so that its work is one matrix product (`experts`);
- only positions that count in the loss are unembedded.

The experts' weights are rounded to MXFP4 in the forward pass, and the gradient passes straight
through (`fake_quantize`), so that the packed weights are the ones that were trained.

`python -m pocket.train --help` says how to start, continue, and finish a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon
from tqdm import tqdm

from gptoss_edu.attention import attention
from gptoss_edu.config import Config
from gptoss_edu.model import Layer, Params, init_params, rms_norm, rope_tables
from gptoss_edu.moe import Moe, Routing, route, swiglu
from gptoss_edu.mxfp4 import dequantize, quantize
from gptoss_edu.tokenizer import Tokenizer
from gptoss_edu.weights.checkpoint import KEPT_IDS, load_model
from pocket import rows, tasks

RUNS = Path(__file__).parent / "runs"
BALANCE = 0.01  # weight of the load-balance loss
ROOM = 1.3  # places per expert, relative to a fair share


def pocket_config(vocab_size: int) -> Config:
    """GPT-OSS in small. No two sizes are equal, and YaRN stretches 128 positions to 8,192."""
    return Config(
        num_layers=4,
        num_experts=10,
        experts_per_token=3,
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=96,
        num_heads=8,
        num_kv_heads=2,
        head_dim=28,
        sliding_window=32,
        max_positions=8192,
        initial_context=128,
        rope_theta=10000.0,
        rope_factor=64.0,
        beta_slow=1.0,
        beta_fast=8.0,
    )


# --- the shared prefix ---


class PrefixKV:
    """A store that puts the keys and values of a shared prefix before those of every row.

    With `k_1PKH` None it only keeps what it is given: that is how the prefix itself is computed.
    """

    def __init__(self, k_BPKH: jax.Array | None = None, v_BPKH: jax.Array | None = None):
        self.k_BPKH, self.v_BPKH = k_BPKH, v_BPKH

    def append(
        self, k_BTKH: jax.Array, v_BTKH: jax.Array, position_BT: jax.Array
    ) -> tuple[PrefixKV, jax.Array, jax.Array, jax.Array]:
        """Return (store, keys, values, their positions): a `KV`, as `attention` expects."""
        if self.k_BPKH is None or self.v_BPKH is None:
            return PrefixKV(k_BTKH, v_BTKH), k_BTKH, v_BTKH, position_BT
        B, P = self.k_BPKH.shape[:2]
        position_BP = jnp.broadcast_to(jnp.arange(P), (B, P))
        k_BSKH = jnp.concatenate([self.k_BPKH, k_BTKH], axis=1)
        v_BSKH = jnp.concatenate([self.v_BPKH, v_BTKH], axis=1)
        return self, k_BSKH, v_BSKH, jnp.concatenate([position_BP, position_BT], axis=1)

    def rows(self, effort_B: jax.Array) -> PrefixKV:
        """The same store with one prefix per row."""
        return PrefixKV(*jax.tree.map(lambda a_BPKH: a_BPKH[effort_B], (self.k_BPKH, self.v_BPKH)))


# --- experts with a fixed number of places ---


@jax.custom_vjp
def take_back(y_SD: jax.Array, slot_R: jax.Array, choice_S: jax.Array) -> jax.Array:
    """y_SD at slots, zeros where slot_R is S (dropped). Each slot is read at most once.

    So the gradient is a gather through the inverse map, instead of a slow scatter.
    """
    return _take(y_SD, slot_R)


def _take(x_SD: jax.Array, index_R: jax.Array) -> jax.Array:
    return jnp.take(x_SD, index_R, axis=0, mode="fill", fill_value=0)


def _take_back_fwd(y_SD: jax.Array, slot_R: jax.Array, choice_S: jax.Array) -> tuple:
    return _take(y_SD, slot_R), choice_S


def _take_back_bwd(choice_S: jax.Array, grad_RD: jax.Array) -> tuple:
    return _take(grad_RD, choice_S), None, None


take_back.defvjp(_take_back_fwd, _take_back_bwd)


def experts(
    p: Moe, x_MD: jax.Array, routing: Routing, real_M: jax.Array, limit: float, alpha: float
) -> jax.Array:
    """The chosen experts' answers for M tokens, y_MD; padding (`real_M` false) takes no place.

    Every expert has `ROOM` times its fair share of places; what finds no place gives zero, which
    the load-balance loss makes rare. (Inference never drops anything.)
    """
    M, X = routing.expert_BTX.shape[1:]
    E = routing.logits_BTE.shape[-1]
    places = -(-int(M * X * ROOM / E) // 16) * 16
    expert_R = jnp.where(real_M[:, None], routing.expert_BTX[0], E).reshape(-1)  # R = M * X
    chosen_RE = jax.nn.one_hot(expert_R, E, dtype=jnp.int32)
    rank_R = (jnp.cumsum(chosen_RE, axis=0) * chosen_RE).sum(axis=1) - 1
    fits_R = (rank_R >= 0) & (rank_R < places)
    S = E * places
    slot_R = jnp.where(fits_R, expert_R * places + rank_R, S)
    choice_S = jnp.full(S, M * X).at[slot_R].set(jnp.arange(M * X), mode="drop")
    x_SD = take_tokens(x_MD, choice_S, slot_R, X)
    x_EMD = x_SD.reshape(E, places, -1)
    h_EMP = jnp.einsum("EMD,EDP->EMP", x_EMD, p.w_gate_up_EDP) + p.b_gate_up_EP[:, None]
    h_EMF = swiglu(h_EMP, limit, alpha)
    y_EMD = jnp.einsum("EMF,EFD->EMD", h_EMF, p.w_down_EFD) + p.b_down_ED[:, None]
    y_MXD = take_back(y_EMD.reshape(S, -1), slot_R, choice_S).reshape(M, X, -1)
    return jnp.einsum("MX,MXD->MD", routing.weight_BTX[0], y_MXD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def take_tokens(x_MD: jax.Array, choice_S: jax.Array, slot_R: jax.Array, X: int) -> jax.Array:
    """x_MD at the tokens whose choices sit in the slots: choice r belongs to token r // X."""
    return _take(x_MD, choice_S // X)


def _take_tokens_fwd(x_MD: jax.Array, choice_S: jax.Array, slot_R: jax.Array, X: int) -> tuple:
    return take_tokens(x_MD, choice_S, slot_R, X), slot_R


def _take_tokens_bwd(X: int, slot_R: jax.Array, grad_SD: jax.Array) -> tuple:
    grad_RD = _take(grad_SD, slot_R)
    return grad_RD.reshape(-1, X, grad_RD.shape[-1]).sum(axis=1), None, None


take_tokens.defvjp(_take_tokens_fwd, _take_tokens_bwd)


def fake_quantize(w_EIO: jax.Array) -> jax.Array:
    """w rounded to MXFP4 and back; the gradient passes as if nothing had been rounded."""
    packed = quantize(w_EIO)
    rounded_EIO = dequantize(packed.blocks_EJUO, packed.scales_EJO).astype(w_EIO.dtype)
    return w_EIO + jax.lax.stop_gradient(rounded_EIO - w_EIO)


def quantized(params: Params) -> Params:
    """Params whose experts are rounded, straight through."""
    layers = []
    for layer in params.layers:
        w_EDP, w_EFD = fake_quantize(layer.moe.w_gate_up_EDP), fake_quantize(layer.moe.w_down_EFD)
        moe = dataclasses.replace(layer.moe, w_gate_up_EDP=w_EDP, w_down_EFD=w_EFD)
        layers.append(Layer(layer.attention, moe))
    return dataclasses.replace(params, layers=tuple(layers))


# --- the forward pass of training ---


class Balance(NamedTuple):
    """Per layer: share of choices that each expert got, and its mean router probability."""

    share_E: jax.Array
    probability_E: jax.Array


def balance_of(routing: Routing, real_M: jax.Array) -> Balance:
    """How evenly the router spreads the real tokens."""
    E = routing.logits_BTE.shape[-1]
    weight_M = real_M / real_M.sum()
    chosen_ME = jax.nn.one_hot(routing.expert_BTX[0], E).mean(axis=1)
    probability_ME = jax.nn.softmax(routing.logits_BTE[0], axis=-1)
    return Balance(weight_M @ chosen_ME, weight_M @ probability_ME)


def forward_rows(
    params: Params, prefix_RP: jax.Array, batch: rows.Batch, config: Config, dtype: Any
) -> tuple[jax.Array, list[Balance]]:
    """Final residual stream x_MD of all rows' tokens, bucket after bucket, and the balance.

    The prefixes are one more bucket, first in each layer, since the rows read its keys.
    """
    R, P = prefix_RP.shape
    tokens = [prefix_RP, *batch.tokens]
    starts = [0, *([P] * len(batch.tokens))]
    shapes = [block.shape for block in tokens]
    lengths = [jnp.full(R, P), *batch.lengths]
    real_M = jnp.concatenate(
        [
            (jnp.arange(T)[None] < length[:, None]).reshape(-1)
            for (_, T), length in zip(shapes, lengths, strict=True)
        ]
    )
    positions = [
        jnp.broadcast_to(start + jnp.arange(T), (B, T))
        for start, (B, T) in zip(starts, shapes, strict=True)
    ]
    tables = [rope_tables(position_BT, config) for position_BT in positions]
    x_MD = params.embedding_VD[jnp.concatenate([t.reshape(-1) for t in tokens])].astype(dtype)
    cuts = np.cumsum([B * T for B, T in shapes])[:-1].tolist()
    balances = []
    for index, layer in enumerate(params.layers):
        normed_MD = rms_norm(x_MD[None], layer.attention.norm_D, config.rms_eps)[0]
        kv, parts = PrefixKV(), []
        for part, x_RD in enumerate(jnp.split(normed_MD, cuts)):
            x_BTD = x_RD.reshape(*shapes[part], -1)
            store = kv.rows(batch.efforts[part - 1]) if part else kv
            y_BTD, store, _ = attention(
                layer.attention, x_BTD, *tables[part], positions[part], store, config.window(index)
            )
            kv = kv if part else store
            parts.append(y_BTD.reshape(-1, y_BTD.shape[-1]))
        x_MD = x_MD + jnp.concatenate(parts)
        p = layer.moe
        normed_MD = rms_norm(x_MD[None], p.norm_D, config.rms_eps)[0]
        routing = route(normed_MD[None], p.w_router_DE, p.b_router_E, config.experts_per_token)
        y_MD = experts(p, normed_MD, routing, real_M, config.swiglu_limit, config.swiglu_alpha)
        x_MD = x_MD + y_MD
        balances.append(balance_of(routing, real_M))
    return x_MD[R * P :], balances


def loss_and_metrics(
    params: Params, prefix_RP: jax.Array, batch: rows.Batch, config: Config, qat: bool, dtype: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross entropy on the assistant's tokens, plus the load-balance loss."""
    if qat:
        params = quantized(params)
    params = jax.tree.map(lambda w: w.astype(dtype), params)
    x_MD, balances = forward_rows(params, prefix_RP, batch, config, dtype)
    x_LD = x_MD[batch.where_L]
    normed_LD = rms_norm(x_LD[None], params.norm_D, config.rms_eps)[0]
    logits_LV = (normed_LD @ params.unembedding_DV).astype(jnp.float32)
    counts_L = batch.target_L >= 0
    target_L = jnp.maximum(batch.target_L, 0)
    nats_L = optax.softmax_cross_entropy_with_integer_labels(logits_LV, target_L)
    total = jnp.maximum(counts_L.sum(), 1)
    cross_entropy = (nats_L * counts_L).sum() / total
    E = config.num_experts
    uneven = sum(E * (b.share_E * b.probability_E).sum() for b in balances) / len(balances)
    right = ((logits_LV.argmax(axis=-1) == target_L) * counts_L).sum() / total
    metrics = {
        "loss": cross_entropy,
        "right": right,
        "uneven": uneven,
        "least_expert": E * jnp.stack([b.share_E for b in balances]).min(),
    }
    return cross_entropy + BALANCE * uneven, metrics


# --- the optimizer ---


def muon_axes(params: Params) -> Any:
    """Which axes of each weight are input and output, for muon; None (adam) for everything else."""
    axes = {
        "w_q_DNH": MuonDimensionNumbers((0,), (1, 2)),
        "w_k_DKH": MuonDimensionNumbers((0,), (1, 2)),
        "w_v_DKH": MuonDimensionNumbers((0,), (1, 2)),
        "w_o_NHD": MuonDimensionNumbers((0, 1), (2,)),
        "w_gate_up_EDP": MuonDimensionNumbers((1,), (2,)),
        "w_down_EFD": MuonDimensionNumbers((1,), (2,)),
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, _: axes.get(getattr(path[-1], "name", "")), params
    )


def make_optimizer(name: str, rate: Any, decay: float = 0.01) -> optax.GradientTransformation:
    """Clipping, then muon on matrices and adam on the rest, or adamw on all."""
    if name == "muon":
        rule = muon(
            rate,
            weight_decay=decay,
            consistent_rms=0.2,
            adam_b2=0.95,
            adam_weight_decay=0.0,
            muon_weight_dimension_numbers=muon_axes,
        )
    else:
        rule = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=decay)
    return optax.chain(optax.clip_by_global_norm(1.0), rule)


def warm(peak: float, warmup: int) -> Any:
    """A rate that rises to its peak within `warmup` steps and stays there."""
    return lambda step: peak * jnp.minimum(1.0, (step + 1) / warmup)


def decay(left: float, span: float | None) -> float:
    """Factor on the rate with `left` steps (or minutes) to go: 1, and falling to 0 over `span`."""
    return 1.0 if span is None else min(1.0, max(0.0, left / span))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that a run needs to continue."""

    params: Params
    average: Params  # moving average of params: what is exported
    optimizer: Any
    step: jax.Array


def start(
    config: Config,
    seed: int,
    optimizer: optax.GradientTransformation,
    embedding_VD: jax.Array | None = None,
) -> State:
    """Random params with small outputs. Embedding and unembedding start equal up to a factor, so
    that copying a token is easy to learn; they are two matrices, and part at the first step."""
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(seed))
    shrink = {"embedding_VD": 0.5, "w_o_NHD": 0.5, "w_down_EFD": 0.5}
    shrink |= {"w_router_DE": 0.3, "b_router_E": 0.0}
    params = jax.tree_util.tree_map_with_path(
        lambda path, w: w * shrink.get(getattr(path[-1], "name", ""), 1.0), params
    )
    if embedding_VD is not None:
        params = dataclasses.replace(params, embedding_VD=0.5 * embedding_VD)
    scale = 0.2 * config.hidden_size**-0.5
    params = dataclasses.replace(params, unembedding_DV=scale * params.embedding_VD.T)
    copy = jax.tree.map(jnp.copy, params)
    return State(params, copy, optimizer.init(params), jnp.zeros((), jnp.int32))


def related_embedding(tok: Tokenizer, width: int, seed: int) -> jax.Array:
    """Starting vectors [V, D] of variance one in which related tokens are close.

    Tokens that differ in case or by a space share four fifths of their vector, and a number is the
    sum of its digits' vectors at their places (so the model need not learn a thousand numbers one
    by one). Words get no hint of their letters: spelling must be learned.
    """
    rng = np.random.default_rng(seed)
    shared: dict[Any, np.ndarray] = {}

    def vector(key: Any) -> np.ndarray:
        return shared.setdefault(key, rng.standard_normal(width))

    vectors = []
    for token in tok.to_ids(range(tok.vocab_size)):
        text = tok.token_bytes(token).decode("utf-8", "replace")
        if text.isascii() and text.isdigit():
            digits = text[::-1].ljust(3, "_")
            base = sum(vector((place, digit)) for place, digit in enumerate(digits)) / 3**0.5
        else:
            base = vector(text.strip().lower() or text)
        vectors.append(0.8 * base + 0.6 * rng.standard_normal(width))
    return jnp.asarray(np.array(vectors), jnp.float32)


def make_step(
    config: Config, optimizer: optax.GradientTransformation, qat: bool, dtype: Any, keep: float
) -> Any:
    """The jitted update: (state, prefixes, batch, factor on the rate) -> (state, metrics)."""

    @functools.partial(jax.jit, donate_argnums=0)
    def update(
        state: State, prefix_RP: jax.Array, batch: rows.Batch, factor: float
    ) -> tuple[State, dict]:
        grads, metrics = jax.grad(loss_and_metrics, has_aux=True)(
            state.params, prefix_RP, batch, config, qat, dtype
        )
        metrics["grad_norm"] = optax.global_norm(grads)
        updates, rule = optimizer.update(grads, state.optimizer, state.params)
        updates = jax.tree.map(lambda u: factor * u, updates)
        params = optax.apply_updates(state.params, updates)
        kept = jnp.minimum(keep, (state.step + 1.0) / (state.step + 10.0))
        average = jax.tree.map(lambda a, w: kept * a + (1 - kept) * w, state.average, params)
        return State(params, average, rule, state.step + 1), metrics

    return update


# --- runs on disk ---


def save(state: State, path: Path) -> None:
    """Write all leaves of the state, atomically."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, *leaves)
    os.replace(temporary, path)


def restore(state: State, path: Path) -> State:
    """Read a state of the same shapes. Raises ValueError when the file is of another model."""
    with np.load(path) as found:
        arrays = [found[f"arr_{index}"] for index in range(len(found.files))]
    leaves, tree = jax.tree.flatten(state)
    if [a.shape for a in arrays] != [leaf.shape for leaf in leaves]:
        raise ValueError(
            f"{path} holds {len(arrays)} arrays of other shapes than this model's {len(leaves)};"
            " use the run's own vocabulary, config and optimizer, or start a new run"
        )
    return jax.tree.unflatten(tree, [jnp.asarray(a) for a in arrays])


def vocabulary(run: Path, begin_with: Path | None = None) -> tuple[int, ...]:
    """The run's kept ids: taken from a checkpoint, or chosen, when the run is first started."""
    path = run / KEPT_IDS
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        ids = rows.choose_vocabulary()
        if begin_with is not None:
            ids = json.loads((begin_with / KEPT_IDS).read_text(encoding="utf-8"))
        path.write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def optimizer_of(run: Path) -> str:
    """The optimizer that a run was started with."""
    path = run / "options.json"
    return json.loads(path.read_text(encoding="utf-8"))["optimizer"] if path.exists() else "muon"


def stored_params(folder: Path, config: Config) -> Params:
    """Weights of an exported checkpoint in float32, to train on from.

    They have lost what packing rounds away, and the optimizer starts anew, so a run's own state is
    better where it still exists.
    """
    model, params = load_model(folder, precision="f32")
    if model.config != config:
        raise ValueError(f"{folder} holds {model.config}, expected {config}")
    return params


def prefetched(source: Iterator[Any], depth: int = 4) -> Iterator[Any]:
    """Draw batches in a thread, so that the step never waits for Python."""
    waiting: queue.Queue[Any] = queue.Queue(depth)

    def work() -> None:
        for item in source:
            waiting.put(item)

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield waiting.get()


def rounds(step: int, options: argparse.Namespace) -> bool:
    """Are the experts rounded in this step? Where it is not in all, the same ones again for a seed.

    Experts that are always rounded learn to be good only rounded: the weights before rounding then
    answer worse than the packed ones that were made of them.
    """
    draw = np.random.default_rng((options.seed, step)).random()
    return step >= options.qat_from and draw < options.qat_share


class Log:
    """One line of JSON per `every` steps, with the means of what was measured since the last."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self.began = path, every, time.monotonic()
        self.pending: list[dict[str, Any]] = []

    def note(self, step: int, metrics: dict[str, Any], batch: rows.Batch, **more: Any) -> dict:
        """Remember one step; return the means on every `every`th, else nothing."""
        self.pending.append(metrics)
        if step % self.every:
            return {}
        means = {k: float(np.mean([m[k] for m in self.pending])) for k in self.pending[0]}
        self.pending = []
        tokens = sum(int(lengths.sum()) for lengths in batch.lengths)
        line = {"step": step, "tokens_per_step": tokens, **more}
        line["seconds"] = round(time.monotonic() - self.began, 1)
        line |= {key: round(value, 5) for key, value in means.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return means


def train(options: argparse.Namespace) -> None:
    """Run until --steps or --minutes are over; save every --save-minutes, and when stopped."""
    run = RUNS / options.run
    tok = Tokenizer(kept_ids=vocabulary(run, options.begin_with))
    config = pocket_config(tok.vocab_size)
    optimizer = make_optimizer(options.optimizer, warm(options.rate, options.warmup))
    vectors_VD = related_embedding(tok, config.hidden_size, options.seed)
    state = start(config, options.seed, optimizer, vectors_VD)
    if (run / "state.npz").exists():
        state = restore(state, run / "state.npz")
    elif options.begin_with is not None:
        params = stored_params(options.begin_with, config)
        state = dataclasses.replace(state, params=params, average=jax.tree.map(jnp.copy, params))
    first = int(state.step)
    (run / "options.json").write_text(
        json.dumps(vars(options), default=str) + "\n", encoding="utf-8"
    )
    prefixes = [tok.to_rows(tok.fit(ids)) for ids in rows.shared_prefix().tolist()]
    prefix_RP = jnp.array(prefixes, jnp.int32)
    shares = tasks.emphasized(options.emphasis, options.times)
    source = prefetched(rows.batches(options.seed + 1000 * first, tok, options.scale, shares))
    dtype = jnp.bfloat16 if options.bf16 else jnp.float32
    step_of = functools.cache(lambda qat: make_step(config, optimizer, qat, dtype, options.keep))
    log, stopping = Log(run / "log.jsonl", options.log_every), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # save, then stop
        signal.signal(number, lambda *_: stopping.set())
    began = saved = time.monotonic()
    bar = tqdm(range(first, options.steps), initial=first, total=options.steps, unit="step")
    for step in bar:
        left = (options.minutes or 1e9) - (time.monotonic() - began) / 60
        factor = decay(options.steps - step, options.decay_steps)
        factor *= decay(left, options.decay_minutes)
        batch, qat = next(source), rounds(step, options)
        state, metrics = step_of(qat)(state, prefix_RP, batch, factor)
        if means := log.note(step + 1, metrics, batch, factor=round(factor, 4), qat=qat):
            bar.set_postfix(loss=f"{means['loss']:.3f}", right=f"{means['right']:.3f}")
        over = left <= 0 or stopping.is_set() or step + 1 == options.steps
        if over or time.monotonic() - saved > 60 * options.save_minutes:
            save(state, run / "state.npz")
            saved = time.monotonic()
        if over:
            break


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pocket.train",
        description="Train the pocket model; a run that exists is continued.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--run", default="main", help="name of the folder in pocket/runs/")
    add("--begin-with", type=Path, help="folder of an exported checkpoint, for a new run")
    add("--steps", type=int, default=12000, help="last step")
    add("--minutes", type=float, help="stop after so many minutes, whatever the step")
    add("--decay-steps", type=int, help="let the rate fall to 0 over the last so many steps")
    add("--decay-minutes", type=float, help="let it fall over the last so many of --minutes")
    add("--optimizer", choices=("muon", "adamw"), default="muon", help="rule for the matrices")
    add("--rate", type=float, default=4e-3, help="peak learning rate")
    add("--warmup", type=int, default=50, help="steps until the peak")
    add("--qat-from", type=int, default=600, help="step from which experts are rounded to MXFP4")
    add("--qat-share", type=float, default=1.0, help="share of those steps that round")
    add("--keep", type=float, default=0.998, help="memory of the moving average, per step")
    add("--scale", type=float, default=0.5, help="rows per step, relative to 101")
    add("--emphasis", nargs="+", default=(), help="tasks to see more often")
    add("--times", type=int, default=4, help="how much more often")
    add("--seed", type=int, default=1, help="of the weights and of the conversations")
    add("--bf16", action="store_true", help="compute in bfloat16 (for accelerators)")
    add("--log-every", type=int, default=20, help="steps per line of the log")
    add("--save-minutes", type=float, default=4.0, help="minutes between two saves")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
