"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import subprocess


def describe(threads):
    """The machine and the versions, as one dictionary."""
    fields = {}
    try:
        for line in open("/proc/cpuinfo"):
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    known = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16")
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": [fields.get("cpu family"), fields.get("model")],
        "cores": os.cpu_count(),
        "threads": threads,
        "instruction_sets": [flag for flag in known if flag in flags],
        "memory_gib": memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def memory():
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def versions():
    found = {"python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    for name, command in (("rustc", ["rustc", "--version"]), ("commit", ["git", "rev-parse", "--short", "HEAD"])):
        done = subprocess.run(command, capture_output=True, text=True)
        found[name] = done.stdout.strip().removeprefix("rustc ").split(" ")[0] or None
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.rs", "*.toml", "*.py"]).returncode:
        found["commit"] = f"{found['commit']} with changes"
    return found
