"""Figures as SVG text, the same bytes from the same rows. Told apart by marker and by line, not by colour alone."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from harness.report.columns import label, twins

Axes = Any  # matplotlib's own type is unknown until it is imported, which takes a second
Losses = dict[str, list[tuple[int, float]]]  # cell → (step, loss), a few dozen points
# Okabe and Ito's colours but for yellow and black, which vanish on one of the two page colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
MARKERS: tuple[str, ...] = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
    "X",
    "*",
    "<",
    ">",
    "p",
    "h",
    "8",
    "d",
    "H",
    "+",
    "x",
    "1",
    "2",
    "3",
    "4",
)
MARKERS += ("|", "_", ".", r"$\infty$", r"$\oplus$", r"$\otimes$", r"$\Gamma$", r"$\Omega$", r"$\Delta$")
INK, PAPER, FAINT = "#000000", "#ffffff", "#999999"


def figures(title: str, part: pd.DataFrame, losses: Losses, baseline: str | None) -> dict[str, str]:
    """Name → SVG of one section's rows, for everything that has data."""
    shown = part[part["chosen"] & part["accuracy"].notna()].reset_index(drop=True)
    if shown.empty:
        return {}
    drawn = {"accuracy": accuracy_against_parameters(title, shown)}
    tuned = part[part["valid_common"].notna() & part["lr"].notna()]
    if (tuned.groupby("curve")["lr"].nunique() > 1).any():
        drawn["learning_rate"] = accuracy_against_rate(title, tuned, baseline)
    known = {c: points for c, points in losses.items() if c in set(shown["cell"])}
    if known:
        drawn["loss"] = loss_curves(title, shown, known, baseline)
    if shown[["peak_train_gb", "peak_eval_gb", "tokens_per_s"]].notna().any(axis=None):
        drawn["cost"] = memory_and_time(title, shown)
    return drawn


def _style(names: list[str]) -> dict[str, tuple[str, str]]:
    """Name → colour and marker; no two share a marker while there are enough."""
    return {n: (COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]) for k, n in enumerate(names)}


def _names(shown: pd.DataFrame) -> list[str]:
    """Variants, with whatever tells apart those that stand there twice."""
    twice, plain = twins(shown), shown.assign(curve_diverged=0, curve_failed=0)
    return [label(row, row["cell"] in twice) for _, row in plain.iterrows()]


# -- the figures -------------------------------------------------------------------------------------------------------
def accuracy_against_parameters(title: str, shown: pd.DataFrame) -> str:
    """Points with their intervals; the Pareto front is what no other variant beats with as few parameters."""
    names, style = _names(shown), _style(_names(shown))
    x = _side_by_side([max(1.0, float(p)) for p in shown["params"]])
    y = [100 * a for a in shown["accuracy"]]

    def draw(fig: Any) -> None:
        ax = fig.subplots()
        trained = [n for n in range(len(x)) if shown["params"][n] > 0]
        front = pareto([(float(shown["params"][n]), y[n]) for n in trained])
        if front:
            right = max(x) * 1.6
            steps = [*front, (right, front[-1][1])]
            ax.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=FAINT, lw=1, ls="--", zorder=1)
        for n, name in enumerate(names):
            colour, marker = style[name]
            row = shown.iloc[n]
            if shown["params"][n] == 0:
                ax.axhline(y[n], color=INK, lw=1, ls=":", label=f"{name}: {y[n]:.1f} (trains nothing)")
                continue
            ends = [[y[n] - 100 * row["low"]], [100 * row["high"] - y[n]]] if pd.notna(row["low"]) else None
            text = f"{name}: {y[n]:.1f}"
            bar = {"elinewidth": 0.8, "capsize": 2, "markersize": 6.5, "markeredgewidth": 1.2}
            ax.errorbar(x[n], y[n], yerr=ends, fmt=marker, color=colour, label=text, ls="none", **bar)
        if trained:
            ax.set_xscale("log")
        ax.set(xlabel="trained parameters", ylabel="test accuracy, % (95 % interval)", title=title)
        columns = 1 + len(names) // 34
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, ncols=columns)

    return _svg(draw, (8.6, max(4.2, 0.19 * min(len(names), 34) + 0.8)), f"{title} accuracy")


def _side_by_side(x: list[float], apart: float = 0.045, near: float = 0.03) -> list[float]:
    """Positions on a log axis; those nearer than `near` decades are spread `apart`, so that no bar hides another."""
    order = sorted(range(len(x)), key=lambda n: (x[n], n))
    groups: list[list[int]] = []
    for n in order:
        if groups and math.log10(x[n] / x[groups[-1][-1]]) < near:
            groups[-1].append(n)
        else:
            groups.append([n])
    moved = dict(enumerate(x))
    for group in groups:
        centre = sum(math.log10(x[n]) for n in group) / len(group)
        for k, n in enumerate(group):
            moved[n] = 10 ** (centre + apart * (k - (len(group) - 1) / 2)) if len(group) > 1 else x[n]
    return [moved[n] for n in range(len(x))]


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, worth), those that nothing cheaper or as cheap beats, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def accuracy_against_rate(title: str, tuned: pd.DataFrame, baseline: str | None) -> str:
    """Validation accuracy of every learning rate, a panel per variant; the baseline in grey in each."""
    groups = {str(c): p.sort_values("lr") for c, p in tuned.groupby("curve", sort=False) if p["lr"].nunique() > 1}
    chosen = pd.concat([part[part["chosen"]] for part in groups.values()])
    names = dict(zip(chosen["cell"], _names(chosen.reset_index(drop=True)), strict=True))

    def panel(ax: Axes, key: str) -> None:
        part = groups[key]
        if baseline in groups and key != baseline:
            grey = groups[str(baseline)]
            ax.plot(grey["lr"], 100 * grey["valid_common"], color=FAINT, lw=1, ls="--")
        ax.plot(part["lr"], 100 * part["valid_common"], color=COLOURS[0], lw=1.4, marker="o", ms=4)
        best = part[part["chosen"]]
        ax.plot(best["lr"], 100 * best["valid_common"], "o", ms=9, mfc="none", mec=INK, mew=1.2)
        lost = part[part["diverged"] > 0]
        ax.plot(lost["lr"], 100 * lost["valid_common"], "x", color=COLOURS[1], ms=7, mew=1.6)
        ax.set_xscale("log")
        ax.set_title(names.get(key, key) + (" (edge)" if best["edge"].any() else ""), fontsize=8)

    note = "ring: chosen; ×: a run diverged (counts as 0)" + (
        f"; dashed: {names[baseline]}" if baseline in names else ""
    )
    return _grid(list(groups), panel, "learning rate", "validation accuracy, %", f"{title}; {note}", f"{title} lr")


def loss_curves(title: str, shown: pd.DataFrame, losses: Losses, baseline: str | None) -> str:
    """Training loss, a panel per variant; the baseline in grey in each."""
    names = dict(zip(shown["cell"], _names(shown), strict=True))

    def panel(ax: Axes, key: str) -> None:
        if baseline in losses and key != baseline:
            ax.plot(*zip(*losses[str(baseline)], strict=True), color=FAINT, lw=1, ls="--")
        ax.plot(*zip(*losses[key], strict=True), color=COLOURS[0], lw=1.4)
        ax.set_title(names[key], fontsize=8)

    keys = [c for c in names if c in losses]
    note = f"; dashed: {names[baseline]}" if baseline in losses and baseline in names else ""
    return _grid(keys, panel, "step", "loss, nats per token", f"{title}{note}", f"{title} loss")


def memory_and_time(title: str, shown: pd.DataFrame) -> str:
    """Peak memory in training and evaluation, training speed, attach time: a row of dots per variant."""
    names = _names(shown)
    kinds = "/".join(sorted({m for m in shown["memory"].dropna() if m})) or "memory"
    panels = [
        (
            f"peak {kinds}, GB",
            [("peak_train_gb", "s", COLOURS[0], "training"), ("peak_eval_gb", "o", "none", "evaluation")],
        ),
        ("training, tokens/s", [("tokens_per_s", "D", COLOURS[2], "")]),
        ("attach, s", [("attach_seconds", "^", COLOURS[1], "")]),
    ]
    panels = [(head, series) for head, series in panels if shown[[s[0] for s in series]].notna().any(axis=None)]

    def draw(fig: Any) -> None:
        axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (head, series) in zip(axes, panels, strict=True):
            for column, marker, face, text in series:
                edge = COLOURS[1] if face == "none" else face
                values = [math.nan if pd.isna(v) else float(v) for v in shown[column]]
                ax.plot(values, range(len(names)), marker, mfc=face, mec=edge, ms=6, mew=1.4, label=text or None)
            ax.set_xlabel(head)
            ax.set_xlim(0, 1.08 * max(float(shown[c].max()) for c, *_ in series if shown[c].notna().any()) or 1.0)
            ax.locator_params(axis="x", nbins=4)
            ax.grid(axis="y", color=FAINT, lw=0.4, alpha=0.5)
            if series[0][3]:
                ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=8)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
        fig.suptitle(title, x=0.01, ha="left", fontsize=10)

    return _svg(draw, (8.6, 1.5 + 0.24 * len(names)), f"{title} cost")


# -- drawing -----------------------------------------------------------------------------------------------------------
def _grid(keys: list[str], panel: Callable[[Axes, str], None], x: str, y: str, title: str, salt: str) -> str:
    """Small panels, all with the same axes, four or five in a row."""
    wide = min(len(keys), 5 if len(keys) > 8 else 4)
    high = math.ceil(len(keys) / wide)

    def draw(fig: Any) -> None:
        axes = fig.subplots(high, wide, sharex=True, sharey=True, squeeze=False).ravel()
        for n, ax in enumerate(axes):
            if n >= len(keys):
                ax.set_visible(False)
                continue
            panel(ax, keys[n])
            ax.xaxis.set_tick_params(labelbottom=n + wide >= len(keys))
        fig.supxlabel(x, fontsize=9)
        fig.supylabel(y, fontsize=9)
        fig.suptitle(title, x=0.01, ha="left", fontsize=10)

    return _svg(draw, (8.6, 1.1 + 1.5 * high), salt)


def _svg(draw: Callable[[Any], None], size: tuple[float, float], salt: str) -> str:
    """SVG text of a figure of this size in inches. Text stays text; ids are hashed with `salt`; no date, no version."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",  # matplotlib brings it: the layout is the same on every machine
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever a matplotlibrc says
        mpl.rcParams.update(settings)
        fig = Figure(figsize=size, layout="constrained")
        draw(fig)
        out = io.StringIO()
        fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"[ \t]+\n", "\n", out.getvalue())


def inline(svg: str, name: str) -> str:
    """The <svg> element for an HTML page: ids of its own, the page's text colour for black, no background."""
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
    body = body.replace(INK, "currentColor").replace(PAPER, "none")
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'(<svg [^>]*?)height="[^"]*" ', r"\1", body), count=1
    )
