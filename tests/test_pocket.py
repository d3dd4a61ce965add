"""The pocket model: what it was taught is true, and what ships does what its card says."""

import dataclasses
import itertools
import json
import random
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import openai_harmony
import pytest

from gptoss_edu import generate, harmony, load_model
from gptoss_edu.config import TINY
from gptoss_edu.model import Params, forward, init_params, unembed
from gptoss_edu.mxfp4 import quantize
from gptoss_edu.tokenizer import Tokenizer, load_encoding
from gptoss_edu.weights.checkpoint import POCKET
from pocket import rows, tasks
from pocket.words import FACTS, WORDS

EVERY = (*tasks.TASKS, *tasks.SPECIAL)


def some_examples(count: int = 400, seed: int = 3) -> list[tasks.Example]:
    """A few of everything: all tasks at all efforts, and a run of the training stream."""
    rng = random.Random(seed)
    all_kinds = [tasks.example(rng, task, effort) for task in EVERY for effort in tasks.EFFORTS]
    return all_kinds + list(itertools.islice(tasks.stream(seed), count))


# --- tasks ---


def test_same_seed_same_examples():
    first, second = (list(itertools.islice(tasks.stream(7), 300)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(tasks.stream(8), 300))


def test_words_are_many_common_and_hidden_from_the_model():
    assert len(WORDS) == len(set(WORDS)) >= 300
    assert "strawberry" in WORDS
    for word in WORDS:
        assert word.isascii()
        assert word.islower()
        assert len(rows.encode(f" {word}")) <= 2 < len(word)


def test_facts_are_asked_in_several_ways_and_never_twice():
    questions = [question for asked, _ in FACTS for question in asked]
    assert len(FACTS) >= 60
    assert len(questions) == len(set(questions))


def test_training_never_sees_what_is_held_out():
    trained = list(itertools.islice(tasks.stream(11), 3000))
    for task in tasks.TASKS:
        for effort in tasks.EFFORTS:
            held = tasks.held_out_examples(task, effort, 5)
            assert held
            assert all(tasks.is_held_out(task, example.pair) for example in held)
    for example in trained:
        kind, _, pair = example.pair.partition(" ")
        task, pair = (kind, pair) if example.task == "follow" else (example.task, example.pair)
        split = "tool" if example.task == "tool_result" else example.task  # one question, two turns
        assert not tasks.is_held_out(split, example.pair), example
        if task in tasks.TASKS:
            assert not tasks.is_held_out(task, pair), example


def test_the_famous_question_is_held_out():
    assert tasks.is_held_out("count", "strawberry r")


def test_a_tenth_is_held_out():
    pairs = [(word, letter) for word in WORDS for letter in tasks.LETTERS]
    held = sum(tasks.is_held_out("count", f"{word} {letter}") for word, letter in pairs)
    assert 0.09 < held / len(pairs) < 0.11


def independent_answer(example: tasks.Example) -> str | None:
    """The answer from the pair alone, by other means than the generator's; None: not computable."""
    task, pair = example.task, example.pair
    if task == "follow":
        task, _, pair = pair.partition(" ")
    parts = pair.split()
    if task == "count":
        return str(len(re.findall(parts[1], parts[0])))
    if task == "length":
        return str(sum(1 for _ in parts[0]))
    if task == "nth":
        return (" " + parts[0])[int(parts[1])]
    if task in ("spell", "reverse", "sort"):
        letters = list(parts[0])
        if task == "reverse":
            letters.reverse()
        return " ".join(sorted(letters) if task == "sort" else letters)
    if task in ("add", "subtract"):
        sign = 1 if task == "add" else -1
        return f"{int(parts[0]) + sign * int(parts[1]):,}"
    if task == "compare":
        a, b = sorted(map(int, parts[:2]))
        return "equal" if a == b else str(a if parts[2] == "True" else b)
    if task == "weekday":
        import datetime

        monday = datetime.date(2024, 1, 1)
        start = monday + datetime.timedelta(tasks.DAYS.index(parts[0]))
        days = int(parts[1]) * (-1 if parts[2] == "True" else 1)
        return (start + datetime.timedelta(days)).strftime("%A")
    return None


def test_answers_agree_with_an_independent_program():
    checked = 0
    for example in some_examples(1500):
        wanted = independent_answer(example)
        if wanted is not None:
            assert example.answer == wanted, example
            assert re.search(rf"(?<![\w,]){re.escape(wanted)}(?!\w)", example.reply[-1].text), (
                example
            )
            checked += 1
    assert checked > 800


def test_tool_results_are_what_the_expression_is_worth():
    rng, found = random.Random(0), 0
    for _ in range(60):
        example = tasks.example(rng, "tool_result", "high")
        call = example.messages[1]["tool_calls"][0]["function"]["arguments"]
        a, sign, b = json.loads(call)["expression"].split()
        worth = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert example.answer == str(worth) == example.messages[2]["content"]
        found += 1
    assert found == 60


def test_workings_are_true():
    """Every column of a sum is right, and every running count is the count so far."""
    for a, b in [(345, 278), (999, 999), (7, 45), (0, 0), (500, 499), (100, 1)]:
        for work in (tasks.add(a, b, "high"), tasks.subtract(a, b, "high")):
            for left, right in re.findall(r"([\d+-]+)=(-?\d+)", work[0]):
                assert sum(map(int, re.findall(r"[+-]?\d+", left))) == int(right), work
    analysis = tasks.count_letter("strawberry", "r", "high")[0]
    assert analysis == "r in strawberry: s0 t0 r1 a1 w1 b1 e1 r2 r3 y3."
    analysis, final = tasks.count_letter("strawberry", "r", "medium")
    assert (analysis, final) == (
        "r in strawberry: s t r1 a w b e r2 r3 y.",
        "There are 3 r's in strawberry.",
    )


def test_low_effort_answers_at_once_and_high_effort_says_most():
    for word in ("strawberry", "committee"):
        low, medium, high = (
            tasks.steps(effort, *tasks.count_letter(word, "e", effort)) for effort in tasks.EFFORTS
        )
        assert [step.channel for step in low] == ["final"]
        assert len(medium[0].text) < len(high[0].text)


# --- rendering ---


def test_prompts_are_rendered_as_openai_harmony_renders_them():
    for example in some_examples():
        rendered = harmony.render(
            list(example.messages),
            reasoning_effort=example.effort,
            tools=[tasks.CALCULATOR] if example.tools else None,
            instructions=example.instructions,
        )
        assert rows.prompt_ids(example) == rendered, example


def test_replies_are_rendered_as_openai_harmony_renders_them():
    role = openai_harmony.Role.ASSISTANT
    for example in some_examples(100):
        ids = rows.reply_ids(example)
        messages = []
        for step in example.reply:
            message = openai_harmony.Message.from_role_and_content(role, step.text)
            message = message.with_channel(step.channel)
            if step.recipient:
                message = message.with_recipient(step.recipient)
                message = message.with_content_type("<|constrain|>json")
            messages.append(message)
        conversation = openai_harmony.Conversation.from_messages(messages)
        config = openai_harmony.RenderConversationConfig(auto_drop_analysis=False)
        whole = load_encoding().render_conversation_for_training(conversation, config)
        assert [*rows.encode("assistant"), *ids] == whole[1:], example
        parsed = load_encoding().parse_messages_from_completion_tokens(ids, role, strict=True)
        assert [m.content[0].text for m in parsed] == [s.text for s in example.reply]
        assert [m.channel for m in parsed] == [s.channel for s in example.reply]
        assert [m.recipient for m in parsed] == [s.recipient for s in example.reply]


def shipped_tokenizer() -> Tokenizer:
    return Tokenizer(kept_ids=tuple(json.loads((POCKET / "o200k_ids.json").read_text())))


def test_rows_and_batches_say_what_the_examples_say():
    tok, prefix_RP = shipped_tokenizer(), rows.shared_prefix()
    R, P = prefix_RP.shape
    assert R == len(tasks.EFFORTS)
    for example in some_examples(50):
        row = rows.to_row(example, tok, P)
        ids = [*prefix_RP[row.effort].tolist(), *tok.to_ids(row.tokens)]
        assert tok.decode(ids) == Tokenizer().decode(
            rows.prompt_ids(example) + rows.reply_ids(example)
        )
        assert tok.to_ids(row.tokens[row.reply_at :]) == tok.fit(rows.reply_ids(example))
    batch = next(rows.batches(0, tok, scale=0.1))
    flat = np.concatenate([block.reshape(-1) for block in batch.tokens])
    counted = batch.target_L >= 0
    assert counted.any()
    np.testing.assert_array_equal(flat[batch.where_L[counted] + 1], batch.target_L[counted])


# --- training ---

CONFIG = dataclasses.replace(
    TINY, vocab_size=300, num_layers=2, layer_types=(), sliding_window=9, hidden_size=64,
    intermediate_size=96, num_heads=6, num_kv_heads=3, head_dim=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def train():
    pytest.importorskip("optax")
    from pocket import train

    return train


def tiny_batch() -> tuple[jax.Array, rows.Batch]:
    """Three prefixes of 11 tokens and rows of two lengths, with other tokens everywhere."""
    rng = np.random.default_rng(0)
    prefix_RP = rng.integers(0, 300, (3, 11)).astype(np.int32)
    chosen = {}
    for width, count in ((13, 2), (23, 3)):
        chosen[width] = [
            rows.Row(rng.integers(0, 300, width - index).tolist(), 5, (index + width) % 3)
            for index in range(count)
        ]
    return jnp.asarray(prefix_RP), rows.to_batch(chosen, loss_share=1.0)


def test_shared_prefix_buckets_and_places_equal_the_plain_forward_pass(train, monkeypatch):
    monkeypatch.setattr(train, "ROOM", float(CONFIG.num_experts))
    params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))
    prefix_RP, batch = tiny_batch()
    P, widest = prefix_RP.shape[1], batch.tokens[-1].shape[1]
    x_MD, balances = jax.jit(
        lambda p: train.forward_rows(p, prefix_RP, batch, CONFIG, jnp.float32)
    )(params)
    logits_MV = unembed(params, x_MD[None], CONFIG.rms_eps)[0]
    padded = [jnp.pad(block, ((0, 0), (0, widest - block.shape[1]))) for block in batch.tokens]
    whole_BT = jnp.concatenate(
        [prefix_RP[np.concatenate(batch.efforts)], jnp.concatenate(padded)], axis=1
    )
    expected_BTV = jax.jit(lambda p: forward(p, whole_BT, CONFIG))(params)[:, P:]
    start, row = 0, 0
    for block, lengths in zip(batch.tokens, batch.lengths, strict=True):
        for length in lengths:
            mine_TV, theirs_TV = logits_MV[start : start + length], expected_BTV[row, :length]
            np.testing.assert_allclose(mine_TV, theirs_TV, atol=2e-4)
            start, row = start + block.shape[1], row + 1
    assert row == len(whole_BT)
    for balance in balances:
        assert float(balance.share_E.sum()) == pytest.approx(1, abs=1e-5)
        assert float(balance.probability_E.sum()) == pytest.approx(1, abs=1e-5)


def test_gathers_have_the_gradient_of_plain_indexing(train):
    slot_R = jnp.array([2, 6, 0, 5])  # choice -> slot, 6 is "dropped"; tokens 0 and 1 choose twice
    choice_S = jnp.array([2, 4, 0, 4, 4, 3])  # slot -> choice, 4 is "empty"
    x_MD = jax.random.normal(jax.random.key(0), (2, 3))
    y_SD = jax.random.normal(jax.random.key(1), (6, 3))

    def fast(x_MD, y_SD):
        x_SD = train.take_tokens(x_MD, choice_S, slot_R, 2)
        y_RD = train.take_back(y_SD, slot_R, choice_S)
        return jnp.sin(x_SD).sum() + jnp.cos(y_RD).sum()

    def slow(x_MD, y_SD):
        empty = jnp.zeros((1, 3))
        x_SD = jnp.concatenate([x_MD, empty])[choice_S // 2]
        y_RD = jnp.concatenate([y_SD, empty])[slot_R]
        return jnp.sin(x_SD).sum() + jnp.cos(y_RD).sum()

    for mine, plain in zip(
        jax.grad(fast, (0, 1))(x_MD, y_SD), jax.grad(slow, (0, 1))(x_MD, y_SD), strict=True
    ):
        np.testing.assert_allclose(mine, plain, rtol=1e-6)


def test_rounding_passes_the_gradient_straight_through(train):
    w_EIO = jax.random.normal(jax.random.key(0), (2, 64, 5))
    packed = jax.jit(quantize)(w_EIO)
    expected_EIO = np.asarray(packed[jnp.arange(2)], np.float32)
    np.testing.assert_allclose(jax.jit(train.fake_quantize)(w_EIO), expected_EIO, atol=1e-6)
    grad_EIO = jax.jit(jax.grad(lambda w_EIO: (3 * train.fake_quantize(w_EIO)).sum()))(w_EIO)
    np.testing.assert_array_equal(grad_EIO, jnp.full_like(w_EIO, 3))


def test_a_state_comes_back_from_disk_as_it_was(train, tmp_path):
    optimizer = train.make_optimizer("adamw", 1e-3)
    config = dataclasses.replace(CONFIG, num_layers=1, layer_types=())
    state = jax.jit(lambda: train.start(config, 0, optimizer))()
    train.save(state, tmp_path / "state.npz")
    shapes = jax.eval_shape(lambda: train.start(config, 1, optimizer))
    again = train.restore(shapes, tmp_path / "state.npz")
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    larger = dataclasses.replace(config, vocab_size=301)
    other = jax.eval_shape(lambda: train.start(larger, 0, optimizer))
    with pytest.raises(ValueError, match="start a new run"):
        train.restore(other, tmp_path / "state.npz")


def test_the_rate_warms_up_stays_and_falls_to_zero(train):
    rate = train.warm(2.0, 10)
    assert [float(rate(step)) for step in (0, 9, 5000)] == pytest.approx([0.2, 2.0, 2.0])
    assert [train.decay(left, 100) for left in (500, 50, 0, -1)] == [1.0, 0.5, 0.0, 0.0]
    assert train.decay(-5, None) == 1.0


def test_experts_are_rounded_from_a_step_on_and_in_a_share_of_the_steps(train):
    always, often = (
        train.parse(["--qat-from", "100", *more]) for more in ([], ["--qat-share", ".7"])
    )
    assert [train.rounds(step, always) for step in (0, 99, 100, 101)] == [False, False, True, True]
    drawn = [train.rounds(step, often) for step in range(1100)]
    assert drawn == [train.rounds(step, often) for step in range(1100)]
    assert not any(drawn[:100])
    assert sum(drawn) == pytest.approx(700, abs=50)


def test_a_mixture_of_runs_can_be_the_beginning_of_another(train, tmp_path, monkeypatch):
    from pocket import export

    monkeypatch.setattr(train, "RUNS", tmp_path)
    tok = shipped_tokenizer()
    config = train.pocket_config(tok.vocab_size)
    optimizer = train.make_optimizer("muon", train.warm(1.0, 1))
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        state = jax.jit(lambda seed=seed: train.start(config, seed, optimizer))()
        train.save(state, tmp_path / name / "state.npz")
        (tmp_path / name / "o200k_ids.json").write_text(json.dumps(tok.kept_ids))
        (tmp_path / name / "log.jsonl").write_text('{"step": 20}\n')
    export.main(["--run", "one", "--last", "--also", "two", "0.25", "--begin", "three"])
    one, two, three = (export.read_run(name)[0] for name in ("one", "two", "three"))
    for a, b, c in zip(*(jax.tree.leaves(s.params) for s in (one, two, three)), strict=True):
        np.testing.assert_allclose(c, 0.75 * a + 0.25 * b, atol=1e-6)
    assert (tmp_path / "three" / "log.jsonl").exists()
    with pytest.raises(SystemExit, match="there is a run 'three'"):
        export.main(["--run", "one", "--begin", "three"])


def test_packed_weights_are_those_that_training_saw(train):
    from pocket.export import packed

    config = dataclasses.replace(CONFIG, num_layers=1, layer_types=())
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(2))
    seen = jax.jit(train.quantized)(params).layers[0].moe
    stored = jax.jit(packed)(params).layers[0].moe
    decode = jax.jit(lambda w: w[jnp.arange(config.num_experts)].astype(jnp.float32))
    np.testing.assert_allclose(seen.w_gate_up_EDP, decode(stored.w_gate_up_EDP), atol=1e-6)
    np.testing.assert_allclose(seen.w_down_EFD, decode(stored.w_down_EFD), atol=1e-6)


# --- evaluation and model card ---


def test_tables_go_between_their_markers():
    from pocket.evaluate import put_between, to_table

    table = to_table({"add": {"low": [1, 4], "high": [4, 4]}})
    assert table.splitlines()[-1] == "| add | 25.0 % of 4 | 100.0 % of 4 |"
    text = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n"
    assert put_between(text, "t", "new") == "a\n<!-- t -->\nnew\n<!-- /t -->\nb\n"
    with pytest.raises(ValueError, match="put the two lines back"):
        put_between(text, "u", "new")


# --- the checkpoint that ships ---


@pytest.fixture(scope="module")
def shipped() -> tuple:
    return load_model()


def test_checkpoint_is_small_and_whole(shipped):
    model, params = shipped
    files = {path.name: path.stat().st_size for path in POCKET.iterdir()}
    assert sum(files.values()) < 8_000_000
    assert {"config.json", "generation_config.json", "o200k_ids.json"} < set(files)
    assert isinstance(params, Params)
    assert params.embedding_VD.dtype == jnp.bfloat16
    assert params.layers[0].moe.w_gate_up_EDP.blocks_EJUO.dtype == jnp.uint8
    assert model.tokenizer.vocab_size == model.config.vocab_size


def test_checkpoint_has_no_two_equal_sizes(shipped):
    sizes = shipped[0].config.sizes
    assert len(set(sizes.values())) == len(sizes), sizes


def test_checkpoint_stretches_its_context(shipped):
    config = shipped[0].config
    assert config.initial_context < config.max_positions
    assert config.sliding_window < config.initial_context
    assert {config.window(layer) for layer in range(config.num_layers)} == {32, None}


def test_strawberry(shipped):
    reply = generate(*shipped, "How many r's are in strawberry?", max_tokens=100)
    assert reply.finish_reason == "stop"
    assert reply.analysis == "r in strawberry: s t r1 a w b e r2 r3 y."
    assert reply.final == "There are 3 r's in strawberry."


def test_the_front_page_shows_what_it_answers(shipped):
    page = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    question = "How many r's are in strawberry?"
    reply, hasty = (generate(*shipped, question, reasoning_effort=e) for e in ("medium", "low"))
    assert f'ask "{question}"\n[analysis]\n{reply.analysis}\n\n[final]\n{reply.final}\n' in page
    assert (hasty.analysis, hasty.final) == ("", "There are 2 r's in strawberry.")
    assert "With `--effort low` it answers at once and says 2." in page
