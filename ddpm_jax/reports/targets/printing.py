"""The answer of `compile_for` as lines of text."""

from typing import Any


def lines(found: dict[str, Any]) -> list[str]:
    """Returns the answer of `compile_for` as lines of text."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    said = [
        f"{found['target']}: {found['devices']} of {found['hardware']['name']}, "
        f"fsdp {found['fsdp']}, {found['dtype']}; compiled by {versions}",
        f"as published: {found['hardware']['figures']}",
        "",
    ]
    step, chain = found["training_step"], found["chain_step"]
    title = "Training step" if step["steps"] == 1 else f"Dispatch of {step['steps']} training steps"
    said += [f"{title}, {step['images_per_device']:,} images a device", *_program(step, found)]
    if found["what_fits"]:
        said += ["  what should fit, by the model of --devices and the compiler's figure:"]
        said += [f"    {_change(row)}" for row in found["what_fits"]]
    elif not step["fits"]:
        said += ["  nothing that was tried fits: more devices, or a smaller network, are needed"]
    said += ["", f"One step of the chain, {chain['images_per_device']:,} images a device"]
    said += _program(chain, found)
    if "ms" in chain:
        whole = chain["ms"] * chain["steps"] / 1e3
        said += [_row("all steps", f"{chain['steps']:,} in {whole:,.1f} s (compiler's estimate)")]
    return said


def _change(row: dict[str, Any]) -> str:
    flags = " ".join(f"--{name} {value}" for name, value in row["settings"].items())
    return f"{flags}  (about {_gb(row['need_bytes'])})"


def _program(step: dict[str, Any], found: dict[str, Any]) -> list[str]:
    have = _gb(found["memory_bytes"])
    if "need_bytes" not in step:
        return [
            _row("fits", f"no: the compiler ran out of {have} ({step['compiler_says']})"),
            _row("compile time", f"{step['compile_s']:,.0f} s here"),
        ]
    parts = {
        "state": step.get("state_bytes"),
        "temporaries": step["temporary_bytes"],
        "code": step["code_bytes"],
    }
    need = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)
    said = [
        _row("fits", f"{'yes' if step['fits'] else 'no'}: {_gb(step['need_bytes'])} of {have}"),
        _row("of which", need),
        _row("compile time", f"{step['compile_s']:,.0f} s here; {step['instructions']:,} lines"),
        _row("model FLOPs", f"{step['model_flops_per_device'] / 1e9:,.0f} GFLOP a device"),
    ]
    said += [_row("exchanged", what) for what in _exchanges(step["exchanges"])]
    if step["exchanges"]:
        said.append(_row("", f"{step['exchange_ms']:,.2f} ms, if the links are busy all the time"))
    wide, turned = step["float32_convolutions"], step["transposed_activations"]
    if found["dtype"] != "float32" and wide:
        said.append(_row("float32", f"the convolutions of {', '.join(wide)}"))
    if turned:
        said.append(_row("transposed", f"activations, {turned} times"))
    if "compiled_bytes_per_device" in step:
        said.append(_row("memory traffic", f"{_gb(step['compiled_bytes_per_device'])} (counted)"))
    if "cycles" not in step:
        said.append(_row("time", "unknown: this compiler estimates none"))
        return said
    hidden = ", if exchanges are hidden" * bool(step["exchanges"])
    said += [
        _row("compiler's estimate", f"{step['cycles']:,} cycles, {step['ms']:,.2f} ms"),
        _row("", _speed(step, found["devices"]) + hidden),
    ]
    if step["exchanges"]:
        said.append(_row("", _speed(step["not_hidden"], found["devices"]) + ", if they are not"))
    said.append("  where the cycles go, by the compiler's estimate:")
    for name, cycles in step["cycles_by_part"].items():
        said.append(f"    {name:<24}{cycles:>14,}  {cycles / step['cycles']:>5.1%}")
    return said


def _exchanges(table: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each kind of exchange: its bytes, and in how many pieces."""
    kinds: dict[tuple[str, int], list[int]] = {}
    for each in table:
        pieces = [each["bytes"]] * each["times"]
        kinds.setdefault((each["kind"], each["group"]), []).extend(pieces)
    return [
        f"{kind} of {sum(sizes):,} bytes"
        + f" in {len(sizes):,} pieces" * (len(sizes) > 1)
        + f", among {group:,}"
        for (kind, group), sizes in kinds.items()
    ]


def _speed(of: dict[str, Any], devices: int) -> str:
    images = of["images_per_s_and_device"]
    return (
        f"{images:,.0f} images/s a device, {images * devices:,.0f} on all, "
        f"{of['share_of_peak']:.0%} of the peak"
    )


def _row(name: str, value: str) -> str:
    return f"  {name:<20}{value}"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
