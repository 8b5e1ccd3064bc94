#!/usr/bin/env python3
"""Measures uno-rs side by side with PyTorch: the same weights, the same work, the same threads, in turns.

    pip install -r benches/peers/requirements.txt
    python benches/compare.py                  about 10 minutes on two cores; prints the tables
    python benches/compare.py --quick          small sizes, few rounds
    python benches/compare.py --write          also renews docs/performance.md, its plot and benches/results.json

It makes random checkpoints (6 GB) in target/compare. Every peer first shows that its result agrees with ours. A time
that other programs took part in is taken again, for a while.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

from harness import cases, machine, prepare, report
from harness.measure import measure

ROOT = Path(__file__).resolve().parents[1]


def main():
    args = arguments()
    os.chdir(ROOT)
    folder = args.folder.resolve()
    env = {
        **os.environ,
        "RAYON_NUM_THREADS": str(args.threads),
        "OMP_NUM_THREADS": str(args.threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }
    programs = prepare.programs(ROOT)
    prepare.files(folder, programs["make_checkpoint"])
    commands = cases.Commands(programs, folder, args.threads)
    results = {
        "date": datetime.date.today().isoformat(),
        "quick": args.quick,
        "machine": machine.describe(args.threads),
        "cases": {},
    }
    earlier = folder / "results.json"
    written = ROOT / "benches/results.json"
    kept = next((file for file in (earlier, written) if file.exists()), None)
    if args.only and kept is not None:
        before = json.loads(kept.read_text())
        commit = before["machine"]["versions"]["commit"]
        results["cases"] = {name: {"commit": commit} | case for name, case in before["cases"].items()}
    for case in cases.all_cases(commands, args.quick):
        if not args.only or any(case.name.startswith(name) for name in args.only):
            print(f"{case.title} ...", file=sys.stderr, flush=True)
            sides = measure(case, env, args.lock, args.patience)
            differences(case, sides, commands)
            results["cases"][case.name] = {"title": case.title, "sides": sides}
            print(summary(sides), file=sys.stderr, flush=True)
            earlier.write_text(json.dumps(results, indent=1) + "\n")
    order = [case.name for case in cases.all_cases(commands, args.quick)]
    results["cases"] = {name: results["cases"][name] for name in order if name in results["cases"]}
    text = report.markdown(results)
    print(text)
    if args.write:
        written.write_text(json.dumps(results, indent=1) + "\n")
        report.put_between_markers(ROOT / "docs/performance.md", text)
        report.plot(results, ROOT / "docs/images/performance.png")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="small sizes and few rounds: whether it works")
    p.add_argument("--write", action="store_true", help="renew the page, its plot and the results in the repository")
    p.add_argument("--only", nargs="*", help="cases by the beginning of their names; the others' results stay")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each program")
    p.add_argument("--folder", type=Path, default=ROOT / "target/compare", help="where the checkpoints are made")
    p.add_argument("--patience", type=float, default=30, help="seconds to wait in each case while others are busy")
    p.add_argument("--lock", type=Path, help="a file to lock (flock) during each run, where several share a machine")
    return p.parse_args()


def differences(case, sides, commands):
    """Notes how far the results of our other ways of storing weights are from that with f32."""
    import numpy as np

    read = lambda name: np.fromfile(commands.result(f"{case.name}/{name}"), dtype="<f4")  # noqa: E731
    for name, side in sides.items():
        if name.startswith("ours-"):
            wanted = read("ours")
            side["relative_l2_to_f32"] = float(np.linalg.norm(read(name) - wanted) / np.linalg.norm(wanted))


def summary(sides):
    parts = (
        f"{name} {side['median_ms']:.1f} ms"
        + (f" (difference {side['relative_l2']:.0e})" if "relative_l2" in side else "")
        for name, side in sides.items()
    )
    return "  " + ", ".join(parts)


if __name__ == "__main__":
    main()
