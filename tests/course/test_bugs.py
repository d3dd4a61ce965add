"""Chapter a2: its folded solutions prove what they say; its line-up answers every guess.

Where each patient begins to differ is printed, and compared, in the notebook itself.
"""

import re

import exercises
import jax.numpy as jnp
import numpy as np
import pytest

from gptoss_edu import load_model
from gptoss_edu.attention import visible
from gptoss_edu.course.checks import bugs
from gptoss_edu.course.checks.patients import patient
from gptoss_edu.harmony import render
from gptoss_edu.tokenizer import END, RETURN

NOTEBOOK = exercises.ROOT / "notebooks" / "a2_bugs_in_the_wild.ipynb"


@pytest.fixture(scope="module")
def ward():
    """What the notebook has before the first case, as far as the solutions need it."""
    model, params = load_model()
    prompt_ids = model.tokenizer.fit(render("How many r's are in strawberry?"))
    said = {n: patient(n).reply(model, params, prompt_ids) for n in (0, 4)}
    tokens_BT = np.array([model.tokenizer.to_rows([*prompt_ids, *said[0]])])
    observed = {n: patient(n).observe(params, tokens_BT, model.config) for n in (6, 8)}
    names = {"config": model.config, "said": said, "ill": observed}
    return names | {"patient": patient, "np": np, "jnp": jnp}


def solutions() -> dict[int, tuple[str, str]]:
    """Patient -> (the name in its folded solution, the block of Python after it)."""
    prose = "\n".join(c["source"] for c in exercises.cells_of(NOTEBOOK))
    found = {}
    for part in re.split(r"^### Patient ", prose, flags=re.MULTILINE)[1:]:
        folded = re.search(
            r'Solution</summary>\s+`"([^"]+)"`.*?```python\n(.*?)```', part, re.DOTALL
        )
        found[int(part.split()[0])] = folded[1], folded[2]
    return found


@pytest.mark.parametrize("number", range(2, 11))
def test_the_folded_solution_names_and_proves_it(ward, number):
    suspect, proof = solutions()[number]
    assert bugs.solve(number, suspect).passed
    assert "assert" in proof
    exec(compile(proof, f"patient {number}", "exec"), dict(ward))


def test_every_case_says_where_it_was_seen():
    prose = "\n".join(c["source"] for c in exercises.cells_of(NOTEBOOK))
    first = prose[prose.index("## 3 · Patient 1") : prose.index("## 4 · ")]
    cases = [first, *re.split(r"^### Patient ", prose, flags=re.MULTILINE)[1:]]
    assert len(cases) == 10
    for number, case in enumerate(cases, 1):
        assert re.search(r"\*\*Seen in\*\* .*\]\(https://github\.com/", case), number


def test_a_patient_does_not_infect_the_library():
    two_BT = jnp.arange(5)[None]
    right = visible(two_BT, two_BT, 2)
    assert int(patient(1).version_of(visible)(two_BT, two_BT, 2).sum()) > int(right.sum())
    np.testing.assert_array_equal(visible(two_BT, two_BT, 2), right)


def test_the_stop_shows_in_the_reply_alone(ward):
    assert ward["said"][0][-1] == RETURN
    assert ward["said"][4] == ward["said"][0][: ward["said"][0].index(END) + 1]


def test_every_answer_is_taken_and_every_wrong_one_has_a_sentence():
    guilty = {answer[0] for answer in bugs.ANSWERS.values()}
    assert len(guilty) == len(bugs.ANSWERS) == 10
    assert guilty < bugs.SUSPECTS.keys()
    assert len(set(bugs.ALIBIS.values())) == len(bugs.SUSPECTS)
    for number, (right, story, _) in bugs.ANSWERS.items():
        for suspect in bugs.SUSPECTS:
            verdict = bugs.solve(number, suspect)
            assert verdict.passed == (suspect == right)
            assert (story if suspect == right else bugs.ALIBIS[suspect]) in verdict.sentence
        assert bugs.solve(number, f" {right.upper()} ").passed
        assert repr(bugs.solve(number, "?")) == f"· patient {number}: not attempted yet"


@pytest.mark.parametrize("number, suspect", [(0, "stop"), (11, "stop"), (True, "window"), ("x", 3)])
def test_nonsense_is_answered_in_a_sentence(number, suspect):
    assert bugs.solve(number, suspect).mistake == "no such patient"
    assert bugs.solve(1, 7).mistake == "no such suspect"
    with pytest.raises(ValueError, match="no patient 11"):
        patient(11)


@pytest.mark.parametrize("test", [answer[2] for answer in bugs.ANSWERS.values()])
def test_the_tests_that_are_named_exist(test):
    file, name = test.split("::")
    text = (exercises.ROOT / "tests" / file).read_text(encoding="utf-8")
    assert f"\ndef {name}(" in text
