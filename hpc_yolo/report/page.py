"""The page: facts of runs in, one HTML text out that needs no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from html import escape

from hpc_yolo.core.units import counted
from hpc_yolo.monitor.tui.marks import short_time
from hpc_yolo.plots.chart import Chart
from hpc_yolo.plots.labels import SplitStatistics
from hpc_yolo.plots.results import Results, most_confused, results_charts
from hpc_yolo.plots.training import training_charts
from hpc_yolo.report.facts import ReportFacts, spec_differences
from hpc_yolo.report.style import COLOURS, STYLE
from hpc_yolo.report.svg import NUM_COLOURS, chart_svg, map_svg
from hpc_yolo.runs.event_lines import figure
from hpc_yolo.runs.time_ledger import KINDS

MAX_MATRIX_CLASSES = 30  # of more, only the most frequent mistakes are shown
MAX_MISTAKES = 12
NOTHING = "–"
KIND_COLOURS = dict(zip(KINDS, (3, 4, 6, 2, 0, 5, 1), strict=True))


def report_page(runs: Sequence[ReportFacts], made: str) -> str:
    """The whole page. `made`: when and with what, in words."""
    title = " · ".join(run.label for run in runs)
    sections = [
        ("figures", "Figures", figures_section(runs)),
        ("spec-differences", "What the specs differ in", differences_section(runs)),
        ("curves", "Training curves", charts_section(training_charts([(run.label, run.events) for run in runs]))),
        ("results", "The best model on the validation images", results_section(runs)),
        ("confusion", "Confusion matrix", each_run(runs, confusion_card)),
        ("images", "Images", each_run(runs, images_card)),
        ("labels", "Labels", each_run(runs, labels_card)),
        ("time", "Where the time went", each_run(runs, ledger_card)),
        ("attempts", "Attempts", each_run(runs, attempts_card)),
        ("warnings", "Warnings", each_run(runs, warnings_card)),
        ("spec", "Spec", each_run(runs, spec_card)),
        ("environment", "Environment", each_run(runs, environment_card)),
    ]
    there = [(anchor, heading, body) for anchor, heading, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in there)
    bodies = "".join(f'<section id="{anchor}"><h2>{heading}</h2>{body}</section>' for anchor, heading, body in there)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - hpc-yolo report</title><style>{STYLE}{COLOURS}</style></head><body>"
        f"<header><h1>{escape(title)}</h1><nav>{links}</nav></header><main>{bodies}</main>"
        f"<footer>{escape(made)}</footer></body></html>\n"
    )


def figures_section(runs: Sequence[ReportFacts]) -> str:
    """What people look at first: tiles for one run, a column each for several."""
    rows = [(run, _figures(run)) for run in runs]
    if len(runs) == 1:
        tiles = (
            f'<div class="tile"><span class="soft">{name}</span><b>{value}</b></div>' for name, value in rows[0][1]
        )
        return f'<div class="tiles">{"".join(tiles)}</div>'
    names = [name for name, _ in rows[0][1]]
    columns = [[value for _, value in figures] for _, figures in rows]
    body = [[name, *(column[place] for column in columns)] for place, name in enumerate(names)]
    return _card(_table(["", *(_key(number, run.label) for number, run in enumerate(runs))], body))


def differences_section(runs: Sequence[ReportFacts]) -> str:
    """The fields of the spec that are not the same in all runs."""
    if len(runs) == 1:
        return ""
    rows = [[escape(field), *map(escape, values)] for field, values in spec_differences(runs)]
    if not rows:
        return _card("<p>Nothing but their names.</p>")
    return _card(_table(["field", *(escape(run.label) for run in runs)], rows))


def charts_section(charts: Iterable[Chart]) -> str:
    """A card a chart, each with its legend where there is more than one line."""
    cards = [
        f'<div class="card"><h3>{escape(chart.title)}</h3>{chart_svg(chart)}{_legend(chart)}</div>' for chart in charts
    ]
    return f'<div class="grid-of">{"".join(cards)}</div>' if cards else ""


def results_section(runs: Sequence[ReportFacts]) -> str:
    """Curves over confidence and recall, and the figures of each class."""
    found = [(run.label, number, run.results) for number, run in enumerate(runs) if run.results is not None]
    curves = charts_section(results_charts(found)) if found else ""
    return curves + each_run(runs, classes_card)


def classes_card(run: ReportFacts) -> str:
    """The best evaluation, class by class."""
    best = run.best
    if best is None:
        return ""
    num_labels = sum(row.num_labels for row in best.classes)
    rows = [["all classes", str(num_labels), *map(figure, (best.precision, best.recall, best.map50, best.map50_95))]]
    for row in best.classes:
        figures = (row.precision, row.recall, row.map50, row.map50_95)
        rows.append([escape(row.name), str(row.num_labels), *map(figure, figures)])
    words = f"<p>Epoch {best.epoch + 1}, on {counted(best.num_images, 'image')}.</p>"
    return words + _table(["class", "labels", "precision", "recall", "mAP50", "mAP50-95"], rows)


def confusion_card(run: ReportFacts) -> str:
    """Found (rows) against there (columns); of many classes only the most frequent mistakes."""
    results = run.results
    if results is None:
        return ""
    mistakes = most_confused(results, MAX_MISTAKES)
    listed = [[escape(found), escape(there), str(count)] for found, there, count in mistakes]
    table = _table(["found", "there", "how often"], listed) if listed else "<p>No mistake.</p>"
    if len(results.names) > MAX_MATRIX_CLASSES:
        return f"<p>The most frequent mistakes among {len(results.names)} classes.</p>{table}"
    return f"{_matrix(results)}<details><summary>The most frequent mistakes</summary>{table}</details>"


def images_card(run: ReportFacts) -> str:
    """Mosaics as training sees them; validation images with labels and findings."""
    parts = [_image(run.mosaics, "Training mosaics with their labels")]
    parts.append(_image(run.pairs, "Validation images: labels, and what the best model finds"))
    return "".join(parts)


def labels_card(run: ReportFacts) -> str:
    """How many objects of which class, how large and where."""
    labels = run.labels
    if labels is None:
        return ""
    most = max([*labels.train.class_counts, *labels.val.class_counts, 1])
    rows = []
    for name, train, val in zip(labels.names, labels.train.class_counts, labels.val.class_counts, strict=True):
        bar = f'<i style="width:{100 * train / most:.1f}%"></i>'
        rows.append([escape(name), str(train), str(val), bar])
    sizes = [_split_row("train", labels.train), _split_row("val", labels.val)]
    heads = ["split", "images", "without objects", "unreadable", "small", "medium", "large"]
    maps = (
        f'<div class="card"><h3>Centres of objects</h3>{map_svg(labels.train.centres, "centres")}</div>'
        f'<div class="card"><h3>Width (across) and height (up)</h3>'
        f"{map_svg(labels.train.sides, 'sides', from_bottom=True)}</div>"
    )
    counts = f'<div class="counts">{_table(["class", "train", "val", ""], rows)}</div>'
    note = f'<p class="soft">Small is below 32², large from 96² pixels on, at {labels.imgsz} px.</p>'
    return f'{_table(heads, sizes)}{note}{counts}<div class="grid-of">{maps}</div>'


def ledger_card(run: ReportFacts) -> str:
    """Every wall second by kind."""
    total_s = run.ledger.total_s
    if total_s <= 0:
        return ""
    shares = {kind: seconds / total_s for kind, seconds in run.ledger.seconds.items()}
    bar = "".join(f'<i class="c{KIND_COLOURS[kind]}" style="width:{share:.2%}"></i>' for kind, share in shares.items())
    rows = [
        [_key(KIND_COLOURS[kind], kind), short_time(seconds), f"{seconds:.1f}", f"{shares[kind]:.1%}"]
        for kind, seconds in run.ledger.seconds.items()
    ]
    rows.append(["<b>in all</b>", f"<b>{short_time(total_s)}</b>", f"{total_s:.1f}", "100%"])
    away = run.ledger.away_s
    note = f'<p class="soft">And {short_time(away)} in which it had ended and nobody had submitted it.</p>'
    return f'<div class="bar">{bar}</div>{_table(["", "time", "seconds", "share"], rows)}{note if away >= 1 else ""}'


def attempts_card(run: ReportFacts) -> str:
    """Each start with its cause of ending, place and length."""
    seconds = {attempt.number: attempt for attempt in run.ledger.attempts}
    rows = []
    for started in run.started:
        ended, entry = run.ended.get(started.attempt), seconds.get(started.attempt)
        hosts = ", ".join(dict.fromkeys(place.host for place in started.ranks))
        ending = "no word of its end" if ended is None else ended.cause or ended.outcome
        rows.append(
            [
                str(started.attempt),
                escape(started.job_id or NOTHING),
                escape(f"{started.world_size} on {hosts}"),
                str(started.step),
                NOTHING if ended is None else str(ended.step),
                NOTHING if entry is None else short_time(entry.queued_s),
                NOTHING if entry is None else short_time(entry.end - entry.begin),
                NOTHING if entry is None else short_time(entry.seconds.get("lost", 0.0)),
                escape(ending),
                escape("" if ended is None else ended.detail),
            ]
        )
    heads = ["start", "job", "ranks", "from step", "to step", "queued", "ran", "lost", "ended", ""]
    return _table(heads, rows) if rows else ""


def warnings_card(run: ReportFacts) -> str:
    """What the run warned of, each once, with how often."""
    counts: dict[str, int] = {}
    for event in run.warnings:
        counts[event.message] = counts.get(event.message, 0) + 1
    unread = f"{counted(run.num_unread, 'line')} of the journal cannot be read by this version"
    words = [f"{message}{f' ({count} times)' if count > 1 else ''}" for message, count in counts.items()]
    words += [unread] if run.num_unread else []
    return "".join(f"<p>{escape(line)}</p>" for line in words)


def spec_card(run: ReportFacts) -> str:
    """The spec as the run has it."""
    return f"<details><summary>spec.yaml</summary><pre>{escape(run.spec_text)}</pre></details>" if run.spec_text else ""


def environment_card(run: ReportFacts) -> str:
    """From where it was submitted, with which packages."""
    rows = [[escape(str(key)), escape(str(value))] for key, value in run.origin.items()]
    for started in run.started[-1:]:
        rows.append(["device", escape(f"{started.device}, {started.precision}, {started.launcher}")])
    packages = escape("\n".join(run.packages))
    listed = f"<details><summary>{len(run.packages)} packages</summary><pre>{packages}</pre></details>"
    return (_table(["", ""], rows, wide=True) if rows else "") + (listed if run.packages else "")


def each_run(runs: Sequence[ReportFacts], card: Callable[[ReportFacts], str]) -> str:
    """A card for each run that has something to show, headed by its label where there are several."""
    found = [(run, card(run)) for run in runs]
    heading = "<h3>{}</h3>" if len(runs) > 1 else ""
    return "".join(_card(heading.format(escape(run.label)) + body) for run, body in found if body)


def _figures(run: ReportFacts) -> list[tuple[str, str]]:
    """(name, value as HTML), the same names for every run."""
    best, epoch, ledger = run.best, run.last_epoch, run.ledger
    gpu_h = f"{ledger.gpu_s / 3600:.2f}" if ledger.gpu_s else NOTHING
    return [
        ("state", f'<span class="words">{escape(run.state)}</span>'),
        ("mAP50-95", NOTHING if best is None else figure(best.map50_95)),
        ("mAP50", NOTHING if best is None else figure(best.map50)),
        ("best epoch", NOTHING if best is None else str(best.epoch + 1)),
        ("epochs done", NOTHING if epoch is None else str(epoch.epoch + 1)),
        ("images a second", NOTHING if run.images_per_s is None else f"{run.images_per_s:.1f}"),
        ("starts", str(len(run.started))),
        ("wall time", short_time(ledger.total_s)),
        ("lost", short_time(ledger.seconds["lost"])),
        ("GPU hours", gpu_h),
        ("rank hours", f"{ledger.rank_s / 3600:.2f}"),
    ]


def _split_row(name: str, split: SplitStatistics) -> list[str]:
    counts = (split.num_images, split.num_backgrounds, split.num_corrupt)
    return [name, *map(str, (*counts, split.num_small, split.num_medium, split.num_large))]


def _matrix(results: Results) -> str:
    """Shares of each column; whoever looks closer sees the counts."""
    names = [*results.names, "background"]
    counts = {(found, there): count for found, there, count in results.confusions}
    totals = [sum(counts.get((row, column), 0) for row in range(len(names))) for column in range(len(names))]
    rows = []
    for row, name in enumerate(names):
        cells = []
        for column in range(len(names)):
            count = counts.get((row, column), 0)
            share = count / totals[column] if totals[column] else 0.0
            words = f"{share:.2f}" if count else ""
            kind = ' class="hit"' if share > 0.5 else ""
            cells.append(f'<td{kind} style="--s:{share:.2f}" title="{count}">{words}</td>')
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    note = '<p class="soft">Rows: found. Columns: there. Shares of a column.</p>'
    return f'{note}<div class="scroll"><table class="confusion"><tr><th></th>{heads}</tr>{"".join(rows)}</table></div>'


def _image(content: bytes, caption: str) -> str:
    if not content:
        return ""
    data = base64.b64encode(content).decode()
    return f'<h3>{caption}</h3><img class="photo" alt="{caption}" src="data:image/jpeg;base64,{data}">'


def _legend(chart: Chart) -> str:
    if len(chart.lines) < 2:
        return ""
    return f'<div class="legend">{"".join(_key(line.colour % NUM_COLOURS, line.name) for line in chart.lines)}</div>'


def _key(colour: int, name: str) -> str:
    return f'<span class="key"><i class="c{colour % NUM_COLOURS}"></i>{escape(name)}</span>'


def _card(body: str) -> str:
    return f'<div class="card apart">{body}</div>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, wide: bool = False) -> str:
    """`heads` and `rows` are HTML already. `wide`: the last column holds sentences."""
    head = "".join(f"<th>{cell}</th>" for cell in heads) if any(heads) else ""
    kind = ' class="left wide"' if wide else ""
    body = "".join(
        f"<tr>{''.join(f'<td{kind if place else str()}>{cell}</td>' for place, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'
