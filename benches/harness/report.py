"""Tables and plots of the results."""

import math

from .measure import is_clean, ratio

BEGIN, END = "<!-- compare.py: begin -->", "<!-- compare.py: end -->"
MARK = "†"


def markdown(results):
    """Everything that stands between the markers in docs/performance.md."""
    machine, cases = results["machine"], results["cases"]
    parts = [about(machine, results), side_by_side(cases)]
    if "dit" in cases:
        parts.append(storages(cases["dit"]))
    parts += [growth(cases, "tokens"), growth(cases, "steps")]
    text = "\n\n".join(part for part in parts if part)
    if MARK in text:
        text += f"\n\n{MARK}: other programs were busy in every round, so that the figure is a rough one."
    return text


def about(machine, results):
    v = machine["versions"]
    packages = ", ".join(f"{name} {v[name]}" for name in ("torch", "diffusers", "transformers") if v.get(name))
    sets = ", ".join(machine["instruction_sets"])
    return (
        f"{results['date']}, commit {v['commit']}. {machine['cpu']} (family and model "
        f"{'/'.join(x or '?' for x in machine['cpu_family_model'])}; {sets}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}; {machine['threads']} threads, f32. rustc {v['rustc']}; "
        f"Python {v['python']}, {packages}.{earlier(results['cases'])}"
    )


def earlier(cases):
    """Which cases were measured with an earlier state of the project."""
    titles = {}
    for case in cases.values():
        if case.get("commit"):
            titles.setdefault(case["commit"], []).append(case["title"])
    notes = (f" Measured at commit {commit}: {'; '.join(names)}." for commit, names in titles.items())
    return "".join(notes)


def milliseconds(result):
    ms = result["median_ms"]
    if ms >= 10_000:
        return f"{ms / 1e3:.1f} s"
    return f"{ms / 1e3:.2f} s" if ms >= 1000 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def times(ours, other):
    """How many times as fast ours is, with the range over the rounds."""
    middle, low, high = ratio(ours, other)
    digits = 1 if middle >= 10 else 2
    mark = "" if is_clean(ours, other) else f" {MARK}"
    return f"**{middle:.{digits}f}** ({low:.{digits}f} to {high:.{digits}f}){mark}"


def row(title, ours, torch, library):
    cells = [title, milliseconds(ours)]
    for other in (torch, library):
        cells += [milliseconds(other), times(ours, other)] if other else ["", ""]
    errors = [other["relative_l2"] for other in (torch, library) if other and "relative_l2" in other]
    cells.append(f"{max(errors):.0e}" if errors else "")
    return "| " + " | ".join(cells) + " |"


def side_by_side(cases):
    lines = [
        "| work | uno-rs | PyTorch, official structure | its time / ours | diffusers or transformers | "
        "its time / ours | difference of results |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        if name.startswith(("tokens/", "steps/")):
            continue
        sides = case["sides"]
        if name == "dit":
            lines.append(row(f"{case['title']}; LoRA beside the weights", sides["ours"], sides["torch"], None))
            lines.append(row("The same; LoRA merged", sides["ours-merged"], None, sides["library"]))
        else:
            lines.append(row(case["title"], sides["ours"], sides.get("torch"), sides.get("library")))
    return "\n".join(lines)


def storages(case):
    lines = [
        f"{case['title']}, ours against ours: how weights wait, and how they multiply.",
        "",
        "| weights | time | time / time with f32 | difference of the result |",
        "|---|---|---|---|",
    ]
    ours = case["sides"]["ours"]
    names = {
        "ours": "f32", "ours-bf16": "bf16", "ours-q8_0": "Q8_0", "ours-e4m3": "e4m3", "ours-merged": "f32, LoRA merged",
        "ours-int8": "Q8_0, products in 8-bit integers (`--int8`)",
    }  # fmt: skip
    for name, title in names.items():
        if name in case["sides"]:
            side = case["sides"][name]
            error = side.get("relative_l2_to_f32")
            cells = [title, milliseconds(side), times(ours, side), f"{error:.0e}" if error else ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def series(cases, kind):
    """(label, size, ours, torch) of the cases of a kind, by size."""
    found = []
    for name, case in cases.items():
        if name.startswith(f"{kind}/"):
            label = name.split("/")[1]
            found.append((label, size_of(kind, label), case["sides"]["ours"], case["sides"]["torch"]))
        elif name == "dit" and kind == "tokens":
            latent, reference = case["title"].split(" + ")[1:]
            rows = int(latent.split("x")[0])
            label = f"{rows * rows}+{rows * rows}"
            found.append((label, size_of(kind, label), case["sides"]["ours"], case["sides"]["torch"]))
    return sorted(found, key=lambda entry: entry[1])


def size_of(kind, label):
    """Tokens of a sequence with its text, or steps."""
    if kind == "steps":
        return int(label)
    total = 512
    for part in label.split("+"):
        times, _, count = part.rpartition("x")
        total += int(times or 1) * int(count)
    return total


def exponent(points):
    """Slope of the line through the logarithms: time grows as size to this power."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mx, my = (sum(values) / len(logs) for values in zip(*logs))
    return sum((x - mx) * (y - my) for x, y in logs) / sum((x - mx) ** 2 for x, _ in logs)


def growth(cases, kind):
    found = series(cases, kind)
    if len(found) < 2:
        return ""
    ours = exponent([(size, a["median_ms"]) for _, size, a, _ in found])
    torch = exponent([(size, b["median_ms"]) for _, size, _, b in found])
    of = "tokens in all" if kind == "tokens" else "steps"
    head = "text + latent and reference tokens | in all" if kind == "tokens" else "steps"
    lines = [
        f"Time grows as ({of})^{ours:.2f} in uno-rs and ^{torch:.2f} in PyTorch.",
        "",
        f"| {head} | uno-rs | PyTorch, official structure | its time / ours |",
        "|---|---|---|---|" + ("---|" if kind == "tokens" else ""),
    ]
    for label, size, a, b in found:
        name = f"512 + {label.replace('+', ' + ').replace('x', ' x ')} | {size}" if kind == "tokens" else label
        lines.append(f"| {name} | {milliseconds(a)} | {milliseconds(b)} | {times(a, b)} |")
    return "\n".join(lines)


def plot(results, path):
    """Cost against tokens and against steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = results["cases"]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, kind, label in zip(axes, ("tokens", "steps"), ("tokens in all (512 of them text)", "steps")):
        found = series(cases, kind)
        sizes = [size for _, size, _, _ in found]
        for index, name, marker in ((2, "uno-rs", "o"), (3, "PyTorch, official structure", "s")):
            seconds = [entry[index]["median_ms"] / 1e3 for entry in found]
            power = exponent(list(zip(sizes, seconds))) if len(found) > 1 else 1
            axis.loglog(sizes, seconds, marker=marker, label=f"{name}: ~ n^{power:.2f}")
        axis.set_xlabel(label)
        axis.set_ylabel("seconds" if kind == "steps" else "seconds per step")
        axis.set_xticks(sizes, [str(size) for size in sizes], rotation=45, ha="right")
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle("Cost of a small DiT (hidden 1024, 3 + 6 blocks, LoRA of rank 128), f32")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def put_between_markers(page, text):
    """Replaces what stands between the markers of a page."""
    old = page.read_text()
    start, end = old.index(BEGIN) + len(BEGIN), old.index(END)
    page.write_text(f"{old[:start]}\n{text}\n{old[end:]}")
