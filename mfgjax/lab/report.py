"""A lab's results as a page: Markdown, or HTML that stands alone."""

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from mfgjax.lab.differences import (
    METRICS,
    Results,
    arms_of,
    chance,
    compare,
    holm,
    interval,
    values,
)
from mfgjax.lab.doses import SWEPT, answers, families, loss_at_equal_balance, verdicts
from mfgjax.lab.figures import draw_figures
from mfgjax.lab.signs import published_signs
from mfgjax.report.files import page_template, write_whole

MAIN = ("held_out_loss", "training_max_violation", "entropy", "congestion_of_tokens", "price_spread", "logit_dispersion")  # fmt: skip
OTHERS = tuple(name for name in METRICS if name not in MAIN)
AGAINST = "none"


class Section(NamedTuple):
    """A heading, text before the table, its head and rows, and the name of a figure."""

    title: str
    text: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figure: str | None = None


def read_results(folder: Path) -> dict[str, Any]:
    """`results.json` of a lab. Raises `ValueError` where there is none, or no run in it."""
    path = folder / "results.json" if folder.is_dir() else folder
    if not path.is_file():
        raise ValueError(
            f"{folder}: no results.json in it. Run `mfgjax lab run --out {folder}` first."
        )
    try:
        results = json.loads(path.read_text())
        runs = results["runs"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the results of a lab. Run `mfgjax lab run` again.") from None
    if not runs:
        raise ValueError(f"{path}: no run was measured yet. Run `mfgjax lab run` again.")
    return results


def sections(results: Results) -> list[Section]:
    """The whole page."""
    arms, preset = arms_of(results), results["preset"]
    shape, plan = preset["shape"], preset["plan"]
    seeds = {arm: sum(run["arm"] == arm for run in results["runs"]) for arm in arms}
    count = f"{min(seeds.values())} to {max(seeds.values())}"
    if min(seeds.values()) == max(seeds.values()):
        count = str(max(seeds.values()))
    tokens = plan["micro_batches"] * plan["batch"] * plan["length"]
    about = (
        f"{len(arms)} arms, {count} seeds each: {shape['experts']} experts, top-{shape['top_k']}, "
        f"{shape['layers']} layers of width {shape['width']}, {plan['steps']} steps of {tokens} bytes; jax "
        f"{results['jax']}, Python {results['python']} (whose library is the text), {results['device']}. "
        "Seeds are paired: the same first weights and data in every arm. In brackets 95% intervals (t, over "
        "seeds). Numbers are means over layers. Small models, early in training: signs, not sizes."
    )
    made = [_table(results, MAIN, "Loss and balance", "loss_and_balance")]
    made += _differences(results)
    made += _equal_balance(results)
    made.append(_signs(results))
    made += _doses(results)
    made.append(Section("Balance in training", "", figure="balance_in_training"))
    made.append(_table(results, OTHERS, "Everything else that was measured", None))
    count = sum(cell.count("[") for one in made for row in one.rows for cell in row)
    about += (
        f" The page holds {count} intervals: about {round(count / 20)} of them miss what they are about by chance, and "
        "one that leaves out 0 says little by itself. What is said of many together is corrected for it and says so."
    )
    return [Section("What was run", about), *made]


def _table(results: Results, names: tuple[str, ...], title: str, figure: str | None) -> Section:
    rows = [
        (arm, *(interval(values(results, arm, n)).text(METRICS[n].digits) for n in names))
        for arm in arms_of(results)
    ]
    return Section(title, "", ("arm", *(METRICS[n].label for n in names)), tuple(rows), figure)


def _differences(results: Results) -> list[Section]:
    arms = arms_of(results)
    if AGAINST not in arms or len(arms) < 2:
        return []
    names = ("held_out_loss", "training_max_violation", "domain_information", "byte_class_information", "co_activation", "masking_mean")  # fmt: skip
    others = [arm for arm in arms if arm != AGAINST]
    found = [[compare(results, arm, AGAINST, n) for n in names] for arm in others]
    corrected = [holm([chance(one) for one in column]) for column in zip(*found, strict=True)]
    rows = []
    for number, (arm, line) in enumerate(zip(others, found, strict=True)):
        sure = [" *" if column[number] <= 0.05 else "" for column in corrected]
        told = zip(line, names, sure, strict=True)
        rows.append((arm, *(one.text(METRICS[n].digits) + star for one, n, star in told)))
    head = ("arm", *(METRICS[n].label for n in names))
    text = f"*: not 0, with the {len(others)} arms of a column taken together (Holm, 95%)."
    return [Section(f"Differences from {AGAINST}, paired by seed", text, head, tuple(rows))]


def _equal_balance(results: Results) -> list[Section]:
    others = [arm for arm, about in arms_of(results).items() if about["rule"] != SWEPT]
    measured = {arm: loss_at_equal_balance(results, arm) for arm in others}
    found = {arm: one for arm, one in measured.items() if one.seeds > 1}
    if not found:
        return []
    together = holm([chance(one) for one in found.values()])
    rows = []
    for (arm, one), corrected in zip(found.items(), together, strict=True):
        even = interval(values(results, arm, "training_max_violation"))
        rows.append(
            (arm, even.text(), one.text(4) + (" *" if corrected <= 0.05 else ""), str(one.seeds))
        )
    text = (
        "Held-out loss less that of the alpha sweep at the same MaxVio (straight lines between doses, within "
        "each seed; seeds outside the sweep are left out). Below 0 an arm is the better bargain. *: not 0, with all "
        f"{len(found)} arms taken together (Holm, 95%)."
    )
    head = ("arm", METRICS["training_max_violation"].label, "loss less the sweep's", "seeds")
    return [Section("Loss at equal balance", text, head, tuple(rows))]


def _signs(results: Results) -> Section:
    found = published_signs(results)
    rows = [
        (s.claim, s.source, s.verdict, s.together, s.evidence)
        for s in found
        if s.verdict != "not run"
    ]
    missing = [s.claim for s in found if s.verdict == "not run"]

    def counted(verdicts: list[str]) -> str:
        kinds = ("reproduced", "undecided", "contradicted", "not run")
        return ", ".join(f"{verdicts.count(v)} {v}" for v in kinds)

    text = (
        f"{counted([s.verdict for s in found])}. At this size and length; a sign that fails here is a finding about "
        "here. Each verdict is by an interval of 95% of its own, so that about one in twenty is by chance; the second "
        f"is corrected (Holm), so that all of them hold together: {counted([s.together for s in found])}."
    )
    if missing and len(missing) < 8:
        text += f" Not run: {'; '.join(missing)}."
    return Section(
        "Published signs",
        text,
        ("claim", "source", "verdict", "with all together", "evidence"),
        tuple(rows),
    )


def _doses(results: Results) -> list[Section]:
    doses = families(results)
    if not doses:
        return []
    found = answers(results)
    head = (
        "number",
        *(f"ρ with {f.setting} of {f.rule}" for f in doses),
        "change under z-loss",
        "answers",
    )
    rows = [
        (
            METRICS[a.metric].label,
            *(a.to_dose[f.rule].text(2) for f in doses),
            a.to_scale.text(METRICS[a.metric].digits),
            said,
        )
        for a, said in zip(found, verdicts(found), strict=True)
    ]
    text = (
        "Rank correlation of each number with the dose, within seeds. z-loss shrinks the logits and balances "
        "nothing: what it moves answers the scale of the logits. What a number answers is said of all numbers together "
        "(Holm, 95%)."
    )
    made = [Section("What answers a dose", text, head, tuple(rows))]
    return made + [Section(f"Doses of {f.rule}", "", figure=f"doses_{f.rule}") for f in doses]


def markdown(results: Results, figures: str | None = "") -> str:
    """The page; `figures` is the folder of the pictures as seen from it, None to leave them out."""
    parts = []
    for one in sections(results):
        if not one.text and not one.rows and (figures is None or not one.figure):
            continue
        parts.append(f"## {one.title}")
        if one.text:
            parts.append(one.text)
        if one.rows:
            lines = ["| " + " | ".join(one.head) + " |", "|" + "---|" * len(one.head)]
            lines += ["| " + " | ".join(row) + " |" for row in one.rows]
            parts.append("\n".join(lines))
        if one.figure and figures is not None:
            parts.append(f"![{one.title}]({figures}{one.figure}.png)")
    return "\n\n".join(parts) + "\n"


def write_report(results: Results, folder: Path) -> list[Path]:
    """`report.md`, `report.html` and a PNG per figure; returns their paths."""
    written, pictures = [], {}
    for name, figure in draw_figures(results):
        with io.BytesIO() as buffer:
            figure.savefig(buffer, format="png", dpi=150)
            content = buffer.getvalue()
        pictures[name] = base64.b64encode(content).decode()
        written.append(write_whole(folder / f"{name}.png", content))
    page = page_template("mfgjax.lab", "report.html.j2")
    texts = {
        "report.md": "# Results of the lab\n\n" + markdown(results),
        "report.html": page.render(sections=sections(results), pictures=pictures),
    }
    return written + [write_whole(folder / name, text) for name, text in texts.items()]
