"""What ``layer_probe`` leaves behind: a table, ``RESULTS.md``, ``results.json`` and the curve over the layers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_ext.files import atomic_write
from espnet_ext.inference.layer_probe import CENTRED, RAW, SCALED
from espnet_ext.metrics.layer_plot import save_layer_plot
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md

MFCC = "MFCC"


def table(results: Sequence[Result]) -> str:
    """Markdown: a row per layer, EER in per cent by system, the interval and minDCF of the best-known one."""
    systems = [name for name in (RAW, CENTRED, SCALED) if any(one.where["system"] == name for one in results)]
    main = CENTRED if CENTRED in systems else RAW
    resampled = any(one.ci is not None for one in results)
    intervals = [f"95 % ({main})"] if resampled else []
    columns = ["layer", *(f"EER % {name}" for name in systems), *intervals, f"minDCF .05 ({main})"]
    rows = []
    for layer in layers_of(results):
        found = {(one.where["system"], one.metric): one for one in results if one.where["layer"] == layer}
        rows.append(
            [
                layer,
                *(f"{100 * found[name, 'eer'].value:.2f}" for name in systems),
                *([_interval(found[main, "eer"].ci)] if resampled else []),
                f"{found[main, 'min_dcf_0.05'].value:.4f}",
            ]
        )
    return markdown_table(columns, rows)


def _interval(ends: tuple[float, float] | None) -> str:
    known = ends is not None and not math.isnan(ends[0])
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if known else "–"


def layers_of(results: Sequence[Result]) -> list[str]:
    """The layers, in the order in which they were measured."""
    return list(dict.fromkeys(one.where["layer"] for one in results))


def best(results: Sequence[Result], floor: bool = False) -> Result | None:
    """The lowest EER of any layer of the encoder (or of the floor) and any system."""
    rates = [one for one in results if one.metric == "eer" and (one.where["layer"] == MFCC) == floor]
    return min(rates, key=lambda one: one.value, default=None)


def best_centred(results: Sequence[Result]) -> str:
    """The layer with the lowest EER as a recipe scores embeddings: minus the mean where that was measured, else raw."""
    rates = [one for one in results if one.metric == "eer" and one.where["layer"] != MFCC]
    centred = [one for one in rates if one.where["system"] == CENTRED] or rates
    return min(centred, key=lambda one: one.value).where["layer"]


def conclusion(results: Sequence[Result]) -> str:
    """One paragraph: which layer is best, whether it beats the floor, and what that is worth."""
    winner, floor = best(results), best(results, floor=True)
    text = f"Lowest: layer {winner.where['layer']}, {100 * winner.value:.2f} % ({winner.where['system']})."
    if floor is not None and floor.value <= winner.value:
        text += f" No layer beats {MFCC}, which has {100 * floor.value:.2f} % ({floor.where['system']})."
    return (
        f"{text} These trials chose it, so its rate is a little too good; choose on development trials what you use on "
        "others."
    )


def write_report(out: Path, name: str, results: Sequence[Result], notes: Sequence[str], info: Mapping) -> str:
    """Write ``RESULTS.md``, ``results.json``, ``layers.png`` and ``best_layer`` into ``out``; return what is shown."""
    lines = {
        system: [(one.where["layer"], one.value, one.ci) for one in results if _is_rate(one, system)]
        for system in (RAW, CENTRED, SCALED)
    }
    save_layer_plot(out / "layers.png", name, {system: line for system, line in lines.items() if line}, MFCC)
    explanation = [
        "An utterance is the mean and the standard deviation over time of one layer, compared by cosine; nothing is",
        "trained (arXiv 2402.00340). Layer 0 is the input of the first transformer layer, layer i the output of",
        "layer i, the last one after the final layer norm where the encoder has one. The mean that is subtracted, and",
        "the deviation that standardised vectors are divided by, are those of an unlabelled set. MFCC is the floor:",
        "the same statistics of cepstra. The interval is 95 %, speakers resampled, not trials.",
    ]
    text = "\n".join([*explanation, "", *(f"- {note}" for note in notes), "", "![EER of every layer](layers.png)"])
    shown = f"{table(results)}\n\n{conclusion(results)}"
    write_results_md(
        out / "RESULTS.md", f"Speaker information by layer: {name}", [("", shown), ("What this is", text)], info
    )
    write_results_json(out / "results.json", results, info)
    with atomic_write(out / "best_layer") as file:
        file.write(best_centred(results) + "\n")
    return shown


def _is_rate(one: Result, system: str) -> bool:
    return one.metric == "eer" and one.where["system"] == system
