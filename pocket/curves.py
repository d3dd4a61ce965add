"""Draw the training log: `python -m pocket.curves` reads log.jsonl and writes curves.svg."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOG, CURVES = HERE / "log.jsonl", HERE / "curves.svg"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log in order of steps; where a run went on from an older save, the later line."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for _, line in sorted({line["step"]: line for line in lines}.items())]


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Loss per token, wrong tokens, and the least used expert, over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "pocket", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(1, 3, figsize=(11, 3), layout="constrained")
        steps = [line["step"] for line in lines]
        curves = (
            ("loss (nats per token)", [line["loss"] for line in lines], "log"),
            ("tokens not predicted (%)", [100 - 100 * line["right"] for line in lines], "log"),
            ("least used expert (1 = fair)", [line["least_expert"] for line in lines], "linear"),
        )
        for axis, (title, values, scale) in zip(axes, curves, strict=True):
            axis.plot(steps, values, linewidth=1)
            axis.set(title=title, xlabel="step", yscale=scale)
            axis.grid(alpha=0.3)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    lines_of_svg = [line.rstrip() for line in drawn.getvalue().splitlines()]
    path.write_text("\n".join(lines_of_svg) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m pocket.curves", description=__doc__)
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--to", type=Path, default=CURVES)
    options = parser.parse_args(arguments)
    draw(read_log(options.log), options.to)


if __name__ == "__main__":
    main()
