"""What benchmarks.cpu measured, as a JSON file, as tables and as plots.

The JSON keeps every single figure; medians and ratios are taken here, so the section of
benchmarks/README.md between its two marks, and the plots, can be written again from it:

    python -m benchmarks.cpu --report
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

README = "README.md"
BEGIN, END = "<!-- written by benchmarks.cpu: begin -->", "<!-- written by benchmarks.cpu: end -->"
NAMES = {
    "ours": "gptoss_edu",
    "ours-jax": "gptoss_edu, without kernels",
    "ours-int8": "gptoss_edu, dense in int8",
    "ours, as published": "gptoss_edu, not converted",
    "llama": "llama.cpp",
    "transformers": "transformers, bf16",
}
KEY = ("part", "layers", "width", "threads")
PACKAGES = ("jax", "numpy", "llama-cpp-python", "torch", "transformers")
Run = dict[str, Any]


# --- the file ---


def keep(path: Path, run: Run) -> None:
    """Put one run into the file, in place of an earlier one of the same part, model and threads."""
    found = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    runs = [old for old in found["runs"] if any(old[name] != run[name] for name in KEY)]
    found = {"machine": machine(), "versions": versions(), "runs": [*runs, run]}
    found["runs"].sort(key=lambda run: [run[name] for name in KEY])
    write_text(path, json.dumps(found, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """All of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def machine() -> dict[str, Any]:
    """The machine by name: processor, cores that may be used, memory, system."""
    told = {"processor": platform.processor() or platform.machine(), "system": platform.system()}
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.is_file():
        lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in lines.items()}
        told["processor"] = fields.get("model name", told["processor"])
        flags = fields.get("flags", "").split()
        told["vectors"] = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
        if "cpu family" in fields:
            told["family"] = f"family {fields['cpu family']}, model {fields['model']}"
    told["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if meminfo.is_file():
        told["memory_gib"] = round(int(meminfo.read_text().split()[1]) / 2**20, 1)
    return told


def versions() -> dict[str, str]:
    """Versions of Python and of what was compared, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def sizes(config: Any) -> dict[str, float]:
    """Bytes that one decoded token must read, experts packed and experts in bf16, and all."""
    from gptoss_edu.chips.fit import read_bytes
    from gptoss_edu.chips.precision import abstract_params, weight_bytes
    from gptoss_edu.shapes import num_bytes

    params = abstract_params(config, "mxfp4")
    rounded = [params.unembedding_DV]
    for a in (layer.attention for layer in params.layers):
        rounded += [a.w_q_DNH, a.w_k_DKH, a.w_v_DKH, a.w_o_NHD]
    saved = num_bytes(rounded) * 15 // 32  # 8 bits and half of one for the scale, in place of 16
    return {
        "token_bytes": read_bytes(config, "mxfp4"),
        "token_bytes_int8": int(read_bytes(config, "mxfp4") - saved),
        "token_bytes_bf16": read_bytes(config, "bf16"),
        "weight_bytes": weight_bytes(config, "mxfp4"),
        "weight_bytes_bf16": weight_bytes(config, "bf16"),
    }


# --- figures ---


def median(values: list[float]) -> float | None:
    """None where nothing was measured."""
    return statistics.median(values) if values else None


def figures(results: Run, name: str, take: Callable[[Run], float]) -> list[float]:
    """One figure of every round."""
    return [take(entry) for entry in results.get(name, [])]


def decode_speed(entry: Run) -> float:
    """Tokens per second."""
    return entry["steps"] / entry["seconds"]


def prefill_speed(entry: Run) -> float:
    """Tokens per second."""
    return entry["tokens"] / entry["seconds"]


def speeds(run: Run) -> dict[str, dict[str, list[float]]]:
    """Engine -> what -> tokens per second of every round."""
    found = {}
    for engine, results in run["engines"].items():
        prefills = [name for name in results if name.startswith("prefill_")]
        found[engine] = {"decode": figures(results, "decode", decode_speed)}
        found[engine] |= {name: figures(results, name, prefill_speed) for name in prefills}
    return found


def ratio(ours: list[float], theirs: list[float]) -> float | None:
    """Median over the rounds of ours by theirs; a round's figures were minutes apart at most."""
    return median([a / b for a, b in zip(ours, theirs, strict=False)])


def share_of_limit(run: Run, engine: str) -> float | None:
    """Decoding's bytes per second by the memory's, both medians."""
    speed, limit = median(speeds(run)[engine]["decode"]), median(run["bandwidth"])
    sizes_of = {"transformers": "token_bytes_bf16", "ours-int8": "token_bytes_int8"}
    size = run["sizes"][sizes_of.get(engine, "token_bytes")]
    return speed * size / limit if speed and limit else None


# --- tables ---


def told(value: float | None, form: str = ".1f") -> str:
    """A number for a table; nothing where there is none."""
    return "" if value is None else format(value, form)


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Markdown, the first column of words and the others of numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def speed_table(run: Run) -> Iterator[str]:
    """Who decodes and reads how fast, and what it takes."""
    every = speeds(run)
    names = [f"prefill_{count}" for count in run["plan"]["prefills"]]
    head = ["", "decode tokens/s", "of the limit"]
    head += [f"prefill({name.split('_')[1]}) tokens/s" for name in names]
    head += ["cores busy", "peak GiB", "of it files"]
    rows = []
    for engine, found in every.items():
        results = run["engines"][engine]
        share = share_of_limit(run, engine)
        row = [NAMES[engine], told(median(found["decode"])), told(share, ".0%")]
        row += [told(median(found.get(name, []))) for name in names]
        row += [told(median(figures(results, "decode", lambda e: e["cores"])))]
        for name in ("peak", "of_files"):
            most = [entry[name] / 2**30 for entry in results.get("memory", []) if name in entry]
            row.append(told(max(most, default=None)))
        rows.append(row)
    mine = next((engine for engine in ("ours", "ours-int8") if engine in every), None)
    for engine in [e for e in every if mine and not e.startswith("ours")]:
        row = [f"**{NAMES[mine]} by {NAMES[engine]}**"]
        for name in ("decode", None, *names):
            both = (every[mine].get(name, []), every[engine].get(name, []))
            row.append(f"**{told(ratio(*both), '.2f')}**" if name and all(both) else "")
        rows.append([*row, "", "", ""])
    yield from table(head, rows)


def load_table(run: Run) -> Iterator[str]:
    """How long until an engine is ready, and until it has said something."""
    head = ["", "ready, cold s", "first token, cold s", "ready, warm s", "first token, warm s"]
    head += ["of which compiling s"]
    rows = []
    for label, results in run["engines"].items():
        row = [NAMES[label]]
        for name in ("load_cold", "load_warm"):
            for figure in ("seconds", "first_token"):
                row.append(told(median(figures(results, name, lambda e, f=figure: e[f]))))
        row.append(told(median(figures(results, "load_warm", lambda e: e["compiled"]))))
        rows.append(row)
    yield from table(head, rows)


def context_table(run: Run) -> Iterator[str]:
    """What a longer context costs, beside the bytes that it adds."""
    bandwidth = median(run["bandwidth"])
    head = ["context", "ms per token", "tokens/s", "cache MB", "more than the first ms"]
    head += ["its bytes at the memory's speed ms", "all layers sliding: ms", "peak GiB"]
    rows, first = [], None
    for length, milliseconds, megabytes, sliding, peak in context_points(run):
        first = first or (milliseconds, megabytes)
        extra, read = milliseconds - first[0], (megabytes - first[1]) * 1e9 / bandwidth
        row = [f"{length:,}", told(milliseconds), told(1000 / milliseconds), told(megabytes)]
        row += [told(extra), told(read), told(sliding), told(peak)]
        rows.append(row)
    yield from table(head, rows)


def context_points(run: Run) -> Iterator[tuple[int, float, float, float, float]]:
    """(length, ms per token, MB of cache, ms with all layers sliding, peak GiB), medians."""
    for length, entries in run["lengths"].items():
        sliding = run["sliding"][length]
        yield (
            int(length),
            1000 * median([e["median_step"] for e in entries]),
            median([e["cache_bytes"] for e in entries]) / 1e6,
            1000 * median([e["median_step"] for e in sliding]),
            entries[0].get("peak", 0) / 2**30,
        )


def agreement_text(run: Run) -> Iterator[str]:
    """What the engines' logits have in common."""
    for names, found in run.get("agreement", {}).items():
        engine, other = (NAMES[name] for name in names.split(" and "))
        yield (
            f"{engine} and {other} over {found['positions']} positions of one fed sequence: equal"
            f" picks {found['equal_picks']:.0%}, correlation of the logits"
            f" {found['median_correlation']:.4f} (smallest {found['smallest_correlation']:.4f})."
        )


# --- the section ---


def section(found: dict[str, Any]) -> str:
    """Everything that was measured, in Markdown."""
    lines = [machine_text(found), "", *images(found)]
    titles = {"speed": "Speed", "rounded": "Attention and unembedding in 8 bits"}
    titles |= {"loads": "Loading", "contexts": "Longer contexts"}
    tables = {"speed": speed_table, "rounded": speed_table}
    tables |= {"loads": load_table, "contexts": context_table}
    for part, title in titles.items():
        runs = [run for run in found["runs"] if run["part"] == part]
        if runs:
            lines += [f"### {title}", ""]
        for run in sorted(runs, key=lambda run: (-run["layers"], -run["threads"])):
            lines += [heading(run), "", *tables[part](run), ""]
            if part == "speed" and any("load_cold" in e for e in run["engines"].values()):
                lines += [*load_table(run), ""]
            lines += [line for text in agreement_text(run) for line in (text, "")]
    return "\n".join(lines).rstrip()


def images(found: dict[str, Any]) -> Iterator[str]:
    """The plots, with a sentence each for those who cannot see them."""
    by_speed, by_context = to_plot(found)
    if by_speed:
        said = []
        for run in by_speed:
            every = speeds(run)
            for name in every[next(iter(every))]:
                both = ", ".join(f"{NAMES[e]} {told(median(every[e][name]))}" for e in every)
                words = name.replace("prefill_", "prompt of ")
                said.append(f"{run['layers']} layers, {words}: {both}")
        yield from (f"![Tokens per second. {'; '.join(said)}.](cpu_speed.svg)", "")
    for run in by_context:
        points = ", ".join(f"{ms:.0f} at {length:,}" for length, ms, *_ in context_points(run))
        yield from (f"![Milliseconds per token by context: {points}.](cpu_context.svg)", "")


def machine_text(found: dict[str, Any]) -> str:
    """The machine and the versions, in a sentence each."""
    about, known = found["machine"], found["versions"]
    vectors = f", {', '.join(about['vectors'])}" if about.get("vectors") else ""
    family = f" ({about['family']})" if "family" in about else ""
    return (
        f"**Machine**: {about['processor']}{family}{vectors}; {about['cores']} cores,"
        f" {about.get('memory_gib', '?')} GiB of memory, {about['system']}. "
        + ", ".join(f"{name} {version}" for name, version in known.items())
        + "."
    )


def heading(run: Run) -> str:
    """Which model, how many threads, how often, and the limit."""
    threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    text = f"**{run['layers']} layers, {threads}**, medians of {run['repeats']} rounds"
    if run.get("bandwidth"):
        speed, each = median(run["bandwidth"]), [value / 1e9 for value in run["bandwidth"]]
        size = run["sizes"]["token_bytes_int8" if run["part"] == "rounded" else "token_bytes"]
        text += (
            f"; memory reads {speed / 1e9:.1f} GB/s ({min(each):.0f} to {max(each):.0f}), a token"
            f" {size / 1e9:.2f} GB: the limit is {speed / size:.1f} tokens/s"
        )
    return text + (" (a dry run)." if run.get("quick") else ".")


def write(path: Path) -> None:
    """The section of the README beside `path`, and the plots beside it, from the JSON file."""
    found = json.loads(path.read_text())
    readme = path.with_name(README)
    if readme.is_file() and BEGIN in (text := readme.read_text(encoding="utf-8")):
        write_text(readme, with_section(text, section(found)))
    write_plots(found, path.parent)


def with_section(text: str, new: str) -> str:
    """The text with what lies between the two marks replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN!r} and then {END!r}, once each; put the marks back")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.partition(END)[2]}"


# --- plots ---


def write_plots(found: dict[str, Any], folder: Path) -> None:
    """cpu_speed.svg and cpu_context.svg, where there is something to show."""
    by_speed, by_context = to_plot(found)
    if by_speed:
        save_svg(folder / "cpu_speed.svg", paint_speed, by_speed, 9, 3.4)
    if by_context:
        save_svg(folder / "cpu_context.svg", paint_context, by_context, 6, 3.4)


def to_plot(found: dict[str, Any]) -> tuple[list[Run], list[Run]]:
    """(runs of speed, the run of contexts of the largest model), with the most threads."""
    most = max((run["threads"] for run in found["runs"]), default=1)
    shown = [run for run in found["runs"] if run["threads"] == most]
    by_speed = [run for run in shown if run["part"] == "speed"]
    by_context = [run for run in shown if run["part"] == "contexts"]
    return sorted(by_speed, key=_layers), sorted(by_context, key=_layers)[-1:]


def _layers(run: Run) -> int:
    return run["layers"]


def save_svg(
    path: Path,
    paint: Callable[[Any, list[Run]], None],
    runs: list[Run],
    width: float,
    height: float,
) -> None:
    """A figure in the look of all others, the same bytes for the same numbers."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    from gptoss_edu.course.viz.colors import PAPER
    from gptoss_edu.course.viz.look import STYLE

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.name}):
        figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
        paint(figure, runs)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = "\n".join(line.rstrip() for line in file.getvalue().splitlines())
    write_text(path, text + "\n")


def paint_speed(figure: Any, runs: list[Run]) -> None:
    """A row of bars per model: decoding with its limit, and reading prompts."""
    from gptoss_edu.course.viz.colors import BLUE, GREEN, INK, ORANGE, SKY, VERMILION

    colors = {"ours": BLUE, "ours-jax": SKY, "llama": ORANGE, "transformers": GREEN}
    names = ["decode", *(f"prefill_{count}" for count in runs[0]["plan"]["prefills"])]
    grid = figure.subplots(len(runs), len(names), squeeze=False)
    for row, run in zip(grid, runs, strict=True):
        every = speeds(run)
        engines = list(every)[::-1]
        for axes, name in zip(row, names, strict=True):
            found = {e: median(every[e].get(name, [])) or 0.0 for e in engines}
            for place, (engine, speed) in enumerate(found.items()):
                axes.barh(place, speed, 0.6, color=colors[engine], edgecolor=INK, lw=0.6)
                axes.text(speed, place, f" {speed:.1f}", va="center", fontsize=9)
            most = max(found.values())
            if name == "decode":
                limit = median(run["bandwidth"]) / run["sizes"]["token_bytes"]
                axes.axvline(limit, color=VERMILION, lw=2)
                most = max(most, limit)
            shown = [NAMES[engine] for engine in engines] if axes is row[0] else []
            axes.set_yticks(range(len(shown)), shown)
            axes.set_xlim(0, 1.25 * most or 1)
            words = name.replace("prefill_", "prompt of ")
            axes.set_title(f"{run['layers']} layers: {words}", loc="left")
            axes.tick_params(axis="y", length=0)
            if run is runs[-1]:
                axes.set_xlabel("tokens/s; line: limit" if name == "decode" else "tokens/s")


def paint_context(figure: Any, runs: list[Run]) -> None:
    """Time per token over the length of the context, beside what its bytes take."""
    from gptoss_edu.course.viz.colors import BLUE, GREEN, LINE, VERMILION

    (run,) = runs
    points = list(context_points(run))
    lengths = [point[0] for point in points]
    axes, speed = figure.subplots(), median(run["bandwidth"])
    first = points[0]
    expected = [first[1] + (point[2] - first[2]) * 1e9 / speed for point in points]
    axes.plot(lengths, [point[1] for point in points], "o-", color=BLUE, label="measured")
    told = "shortest, and the added bytes at the memory's speed"
    axes.plot(lengths, expected, "--", color=VERMILION, label=told)
    told = "measured, every layer sliding"
    axes.plot(lengths, [point[3] for point in points], "s-", color=GREEN, label=told)
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_ylim(0, 1.15 * max(*expected, *(point[1] for point in points)))
    axes.grid(axis="y", color=LINE, lw=0.3)
    axes.set_xlabel(f"tokens of context   ({run['layers']} layers, {run['threads']} threads)")
    axes.set_ylabel("ms per token")
    axes.legend(frameon=False)
