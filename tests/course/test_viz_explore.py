"""Sliders: a static panel where nobody can move them, a figure that obeys them where one can."""

import pytest
from IPython.utils.capture import capture_output

from gptoss_edu.course import viz
from gptoss_edu.course.viz.look import STATIC


def paint(window, sink_logit):
    def fill(figure):
        figure.subplots().plot([0, window], [0, sink_logit])

    return viz.draw(fill, f"A line to {window}, {sink_logit} <end>.", width=2, height=1)


@pytest.fixture
def explorer():
    return viz.explore(paint, paint(1, 2), window=(1, 4, 16), sink_logit=[-1.5, 0.0])


def test_static_is_the_panel_alone(explorer, monkeypatch):
    monkeypatch.setenv(STATIC, "1")
    with capture_output() as captured:
        explorer._ipython_display_()
    assert len(captured.outputs) <= 1, "a widget was shown"
    assert repr(explorer) == "A line to 1, 2 <end>."


def test_a_slider_that_moves_draws_again(explorer):
    box = explorer.live()
    window, sink, figure = box.children
    assert (window.description, window.value, sink.description) == ("window", 4, "sink logit")
    assert figure.value == paint(4, 0.0).to_html()
    window.value = 16
    assert figure.value == paint(16, 0.0).to_html()
    sink.value = -1.5
    assert figure.value == paint(16, -1.5).to_html()
    assert 'alt="A line to 16, -1.5 &lt;end&gt;."' in figure.value


def test_no_values_is_a_clear_error():
    with pytest.raises(ValueError, match="'window' has no values"):
        viz.explore(paint, paint(1, 2), window=())
