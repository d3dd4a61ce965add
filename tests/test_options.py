"""Options: said once, checked once, and a typo is answered."""

import dataclasses
import inspect

import numpy as np
import pytest

from gptoss_edu.options import Options, changed, lists_options
from gptoss_edu.sampling import Sampling


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None, "abc", [1, 2], [0.5], []])
def test_seeds_are_whole_numbers_one_for_each_prompt(seed):
    with pytest.raises(ValueError, match=r"seed is .*, expected a whole number from 0 .* 1 prompt"):
        Options(seed=seed).seeds(1)


def test_one_seed_serves_all_prompts_and_a_list_each_its_own():
    assert Options(seed=7).seeds(3) == [7, 7, 7]
    assert Options(seed=np.arange(2)).seeds(2) == [0, 1]
    assert Options(seed=np.int64(5)).seeds(1) == [5]


def test_options_are_the_settings_of_the_draw_and_more():
    options = Options(temperature=0.5, top_p=0.9, max_tokens=3)
    assert options.active == Sampling(0.5, top_p=0.9).active
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_tokens = 4
    with pytest.raises(ValueError, match="temperature is -1"):
        Options(temperature=-1)


def test_every_option_explains_itself_and_has_a_default():
    for field in dataclasses.fields(Options):
        assert field.metadata["help"]
        assert field.default is not dataclasses.MISSING


def test_options_are_changed_by_name():
    options = changed(Options(seed=3), {"temperature": 1.0})
    assert (options.seed, options.temperature) == (3, 1.0)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        changed(options, {"max_tokens": 0})


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("topk", "top_k"),
        ("effort", "reasoning_effort"),
        ("repeat_penalty", "repetition_penalty"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(wrong, meant):
    with pytest.raises(TypeError, match=rf"^there is no option {wrong}; did you mean {meant}\?$"):
        changed(Options(), {wrong: 1})


def test_a_name_like_none_is_answered_with_all():
    with pytest.raises(TypeError, match=r"no option xyz; expected one of temperature, .*cache"):
        changed(Options(), {"xyz": 1})


def test_a_function_lists_options_as_its_keywords():
    @lists_options
    def ask(model, prompt="hi", **options):
        """Ask."""
        return model, prompt, options

    assert ask(1, prompt=3, seed=4) == (1, 3, {"seed": 4})
    assert ask.__doc__.startswith("Ask.\n\nOptions:\n    temperature: ")
    assert ask.__name__ == "ask"
    shown = inspect.signature(ask).parameters
    names = [field.name for field in dataclasses.fields(Options)]
    assert list(shown) == ["model", "prompt", *names]
    assert {shown[name].kind for name in names} == {inspect.Parameter.KEYWORD_ONLY}
