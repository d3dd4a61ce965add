"""Do the tests notice when the code is wrong? Mutants of the lesson files and of four others.

    python tools/mutants.py [--all] [FILE …]        # make mutants, make mutants ALL=1

cosmic-ray changes one place of one file (a number, an operator, a condition), that file's own tests
run until one fails, and the file is put back. (mutmut wraps every function in another, which tests
that read signatures and sources notice.) All this happens in copies of the tree below build/, one
for each worker. 300 mutants are drawn from a seed, of each place at most one; `--all` runs all.

Results are kept as they come: started again, it goes on. What was killed stays killed while the
file is the same; what survived runs again, for its tests may have become better, and so does what
was late, for the machine may have been busy. Survivors that no test can kill stand in
tests/mutants/survivors.toml with the reason, and do not count. Ends with 1 where fewer than 95 % of
the lesson files' mutants are killed.
"""

from __future__ import annotations

import argparse
import ast
import collections
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # `make mutants` installs it
    from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
SURVIVORS = ROOT / "tests" / "mutants" / "survivors.toml"
SAMPLE, SEED, LEAST, WORKERS = 300, 13, 0.95, 2

# What is mutated -> the tests that have to notice, the fastest first.
LESSONS = {
    "config": ["config"],
    "shapes": ["shapes", "attention"],
    "system": ["system"],
    "tokenizer": ["tokenizer"],
    "schemas": ["schemas", "harmony"],
    "harmony": ["harmony"],
    "parser": ["parser", "harmony"],
    "reply": ["clock", "reply"],
    "rope": ["rope"],
    "attention": ["attention"],
    "mxfp4": ["mxfp4"],
    "moe": ["moe"],
    "model": ["model", "golden"],
    "cache": ["cache", "bad_input", "generation"],
    "sampling": ["sampling"],
    "options": ["options", "bad_input"],
    "generation": ["bad_input", "chips/programs", "generation"],
    "chat": ["chat"],
}
OTHERS = {
    "weights/fetch": ["weights/fetch"],
    "weights/hub": ["weights/hub"],
    "chips/fit": ["chips/fit"],
}


class Mutant(NamedTuple):
    """One change of one file; `key` names it for as long as the file is the same."""

    file: str
    key: str
    spec: MutationSpec

    @property
    def place(self) -> tuple[str, tuple[int, int], str]:
        """Where, and what kind of change: + to - and + to * are two mutants of one place."""
        return self.file, self.spec.start_pos, self.spec.operator_name.partition("_")[0]


class Result(NamedTuple):
    """What became of a mutant: "killed", "survived" or "late" (killed by the clock alone)."""

    key: str
    outcome: str
    was: str
    becomes: str
    cpu_s: float = 0.0  # what its tests took


def types(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where types stand: they are never run, so no test can tell."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        for kind in (getattr(node, name, None) for name in ("annotation", "returns")):
            if isinstance(kind, ast.expr):
                end = kind.end_lineno or kind.lineno, kind.end_col_offset or 0
                spans.append(((kind.lineno, kind.col_offset), end))
    return spans


def mutants(file: str) -> list[Mutant]:
    """Every mutant of a file of the package."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB

    path = Path("gptoss_edu", f"{file}.py")
    source = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    session, spans = WorkDB(":memory:", WorkDB.Mode.create), types(source)
    init([path], session, {})
    return [
        Mutant(file, f"{file} {digest} {spec.operator_name} {spec.occurrence}", spec)
        for item in session.work_items
        for spec in item.mutations
        if not any(begin <= tuple(spec.start_pos) < end for begin, end in spans)
    ]


def drawn(files: list[str]) -> list[Mutant]:
    """All changes, shuffled, but no place a second time before all had their turn."""
    pool = sorted((m for file in files for m in mutants(file)), key=lambda mutant: mutant.key)
    random.Random(SEED).shuffle(pool)
    seen: collections.Counter[object] = collections.Counter()
    turns: list[tuple[int, int, Mutant]] = []
    for mutant in pool:
        turns.append((seen[mutant.place], len(turns), mutant))
        seen[mutant.place] += 1
    return [mutant for _, _, mutant in sorted(turns, key=lambda entry: entry[:2])]


def is_python(mutant: Mutant) -> bool:
    """Can the change be made, and is what it makes a program? (The star of `f(*, x)` is no product,
    and of `except` cosmic-ray replaces plain names only.) What is none would be killed by itself.
    """
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    spec = mutant.spec
    source = Path(spec.module_path).read_text(encoding="utf-8")
    try:
        changed = mutate_code(source, get_operator(spec.operator_name)(), spec.occurrence)
        with warnings.catch_warnings(action="ignore"):  # of `is` beside a number
            compile(changed, mutant.file, "exec")
    except (AttributeError, SyntaxError):
        return False
    return True


def command(file: str) -> str:
    """Run a file's own tests until one fails."""
    tests = [f"tests/{'/'.join([*room, 'test_' + stem])}.py" for *room, stem in
             (test.split("/") for test in (LESSONS | OTHERS)[file])]  # fmt: skip
    options = "-m pytest -x -q -p no:cacheprovider"
    return shlex.join([sys.executable, *options.split(), *tests])


def move_in(numbers: multiprocessing.Queue[int]) -> None:
    """A worker's own copy of the tree, whose files it may change."""
    tree = BUILD / f"tree-{numbers.get()}"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    os.chdir(tree)
    os.nice(10)
    os.environ.update(PYTHONPATH=str(tree), JAX_PLATFORMS="cpu")


def cpu_seconds() -> float:
    """What the processes took that this one started and that are over."""
    times = os.times()
    return times.children_user + times.children_system


def keep_programs(file: str, seconds: str) -> None:
    """Let JAX read what it compiled for a file's tests, and write what takes so long to compile."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(BUILD / "programs" / file.replace("/", "-"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = seconds


def healthy(file: str) -> tuple[str, float]:
    """Seconds that a file's tests take as it is. Raises RuntimeError where they fail.

    What it compiles is kept for the file's mutants: compiling is most of the work. They only read,
    since one that is stopped may be writing.
    """
    keep_programs(file, "0")
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    began = time.perf_counter()
    run = subprocess.run(shlex.split(command(file)), capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"the tests of {file} fail without any mutant:\n{run.stdout[-2000:]}")
    return file, time.perf_counter() - began


def attempt(run: tuple[Mutant, float]) -> Result:
    """Change, test for so many seconds at most, put back."""
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_item import TestOutcome

    (mutant, limit), before = run, cpu_seconds()
    keep_programs(mutant.file, "1e9")
    result = mutate_and_test([mutant.spec], command(mutant.file), limit)
    lines = (result.diff or "").splitlines()
    was, becomes = (
        "\n".join(x[1:].strip() for x in lines if x.startswith(sign) and not x.startswith(sign * 3))
        for sign in "-+"
    )
    killed = result.test_outcome == TestOutcome.KILLED
    outcome = "survived" if not killed else "late" if result.output == "timeout" else "killed"
    return Result(mutant.key, outcome, was, becomes, cpu_seconds() - before)


def explained() -> dict[tuple[str, str, str], str]:
    """(file, line as it was, line as it becomes) -> why no test can tell the one from the other."""
    entries = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))
    return {(e["file"], e["was"], e["becomes"]): e["why"] for e in entries.get("survivor", [])}


def report(done: list[tuple[Mutant, Result]]) -> bool:
    """Print survivors as survivors.toml takes them, who was late, and scores. Is it enough?"""
    known = explained()
    score: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for mutant, result in done:
        named = (mutant.file, result.was, result.becomes) in known
        outcome = "explained" if named and result.outcome == "survived" else result.outcome
        score[mutant.file][outcome] += 1
        if outcome == "survived":
            entry = {"file": mutant.file, "was": result.was, "becomes": result.becomes, "why": ""}
            print("\n[[survivor]]", *(f"{k} = {json.dumps(v)}" for k, v in entry.items()), sep="\n")
        elif outcome == "late":
            print(f"\n# late: {mutant.file}: {result.was} -> {result.becomes}")
    print("\n| file | killed | late | survived | explained | score |\n|---|---|---|---|---|---|")
    total: collections.Counter[str] = collections.Counter()
    for file, counts in [*score.items(), ("lesson files", total)]:
        total.update(counts if file in LESSONS else {})
        caught = counts["killed"] + counts["late"]
        share = caught / max(caught + counts["survived"], 1)
        numbers = [counts[name] for name in ("killed", "late", "survived", "explained")]
        print(f"| {file} |", " | ".join(map(str, numbers)), f"| {share:.1%} |")
    cpu_s = sum(result.cpu_s for _, result in done)
    print(f"\n{len(done)} mutants took {cpu_s:,.0f} CPU seconds, on {WORKERS} quiet cores", end=" ")
    print(f"{cpu_s / WORKERS / 60:.0f} minutes")
    caught = total["killed"] + total["late"]
    return caught >= LEAST * (caught + total["survived"])


def main(arguments: list[str]) -> int:
    """Draw, run what is not known yet, report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="every mutant, not a sample")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("files", nargs="*", help="such as rope or chips/fit (default: all)")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    BUILD.mkdir(parents=True, exist_ok=True)
    log, results = BUILD / "results.jsonl", {}
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines()
        results = {one.key: one for one in (Result(**json.loads(line)) for line in lines)}
    there = [file for file in LESSONS | OTHERS if Path("gptoss_edu", f"{file}.py").is_file()]
    mutants_of = filter(is_python, drawn(options.files or there))
    chosen = list(itertools.islice(mutants_of, None if options.all else options.sample))
    left = [m for m in chosen if m.key not in results or results[m.key].outcome != "killed"]
    numbers: multiprocessing.Queue[int] = multiprocessing.Queue()
    for number in range(options.workers):
        numbers.put(number)
    with multiprocessing.Pool(options.workers, move_in, [numbers]) as pool, log.open("a") as file:
        seconds = dict(pool.imap_unordered(healthy, sorted({mutant.file for mutant in left})))
        runs = [(mutant, 30 + 5 * seconds[mutant.file]) for mutant in left]
        for count, result in enumerate(pool.imap_unordered(attempt, runs), 1):
            results[result.key] = result
            file.write(json.dumps(result._asdict()) + "\n")
            file.flush()
            print(f"{count}/{len(left)} {result.outcome}: {result.key}", file=sys.stderr)
    return 0 if report([(m, results[m.key]) for m in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
