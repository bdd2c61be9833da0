#!/usr/bin/env python3
"""Renders what the benchmarks printed: tables, and three pictures.

    benches/render.py            reads and writes benches/results/

Reads `suite.tsv` (from the bench `suite`), `bars.1.md` and so on (one for each process), `growth.md`, `lineitem.md`, `backends.md` and `adopt.md` (from the
benches of those names), `threads.csv` (from the binary `threads`) and `peers.tsv` (what a harness printed for
peers in other languages); what is not there is left as it was. Writes `table.md`, `peers.md`, `bars.svg` (the
main table), `depth.svg` and `threads.svg`, and puts the tables between the markers of `benches/README.md`. Needs nothing but Python.
"""

import collections
import csv
import pathlib
import statistics

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"

# Colours that can be told apart by most, in light and in dark.
COLOURS = ["#4477aa", "#ee6677", "#228833", "#aa3377", "#66ccee", "#ccbb44"]

# What a bar can come to.
VERDICTS = {"goal": "#228833", "bar": "#4477aa", "missed": "#cc3311", "skipped": "#777777"}

# The table of peers: what is measured, and where it stands in `bars.md` (ours, arrow-buffer's, DataFusion's)
# and in `peers.tsv` (Arrow C++'s, as a pool and as a buffer, and Arrow Java's). A pair of names is two
# threads against one.
PEERS = (
    ("allocate + free 4 KiB", "4 KiB, mimalloc, depth 1", "4 KiB, mimalloc, arrow_buffer", None,
     ("arrow-cpp mimalloc pool", "4KiB"), ("arrow-cpp mimalloc AllocateBuffer (default pool)", "4KiB"),
     ("arrow-java unsafe", "4KiB depth 1 no reservation")),
    ("the same, six levels", "4 KiB, mimalloc, depth 6", None, None,
     ("arrow-cpp proxy chain over mimalloc", "4KiB depth 6 (base + 5 proxies)"), None,
     ("arrow-java unsafe", "4KiB depth 6 no reservation")),
    ("clone + drop", "clone + drop", "clone + drop, arrow_buffer", None,
     None, ("arrow-cpp Buffer", "shared_ptr copy+drop"), ("arrow-java unsafe", "retain+release")),
    ("slice + drop", "slice + drop", "slice + drop, arrow_buffer", None,
     None, ("arrow-cpp Buffer", "SliceBuffer(64,1024)+drop"),
     ("arrow-java unsafe", "slice(64,1024)+retain+release")),
    ("to a sibling and back", "transfer_ownership to a sibling and back", None, None,
     None, None, ("arrow-java unsafe", "transferOwnership to sibling and back")),
    ("charge and release 4 KiB, no memory", "allocate_bytes, up and down", None,
     "GreedyMemoryPool, up and down", None, None,
     ("arrow-java unsafe", "4KiB forceAllocate+releaseBytes depth 1")),
    ("the same, six levels", "allocate_bytes, up and down", None, None, None, None,
     ("arrow-java unsafe", "4KiB forceAllocate+releaseBytes depth 6")),
    ("child created and closed", "child created and closed", None, None,
     ("arrow-cpp", "ProxyMemoryPool new+delete"), None, ("arrow-java unsafe", "newChildAllocator+close")),
    ("bytes beside 64, for each live buffer", "bookkeeping per live 64-byte buffer, mimalloc, handle included",
     "bytes beside 64, one million live, mimalloc, arrow_buffer", None, None,
     ("arrow-cpp mimalloc AllocateBuffer", "64B live, handle 8B"),
     ("arrow-java unsafe", "64B live, handle 4B (compressed ref)")),
    ("two threads / one, own child each, ×", "2 threads / 1 thread, 4 KiB, own child", None, None,
     ("arrow-cpp mimalloc pool", "4KiB own Proxy each over one shared pool"), None,
     ("arrow-java unsafe", "4KiB own child of one root")),
    ("two threads / one, one allocator, ×", "2 threads / 1 thread, 4 KiB, shared", None, None,
     ("arrow-cpp mimalloc pool", "4KiB same pool"), ("arrow-cpp mimalloc AllocateBuffer", "4KiB same pool"),
     ("arrow-java unsafe", "4KiB same allocator")),
)


def main():
    pool_bars()
    peers = read_peers()
    if (RESULTS / "suite.tsv").exists():
        suite = read_suite()
        write_table(suite)
        depth_plot(suite, peers)
    bars_table()
    peers_table(peers)
    threads_plot()
    fill_readme()


def read_suite():
    """{(case, parameters): {peer: [ns, …]}}, in the order of the file."""
    found = collections.OrderedDict()
    with open(RESULTS / "suite.tsv") as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) != 5:
                continue
            peer, case, parameters, _unit, values = cells
            group = found.setdefault((case, parameters), collections.OrderedDict())
            group[peer] = [float(value) for value in values.split(",")]
    return found


def write_table(suite):
    cases = collections.OrderedDict()
    for (case, parameters), peers in suite.items():
        cases.setdefault(case, collections.OrderedDict())[parameters] = peers
    lines = []
    for case, columns in cases.items():
        lines.append(f"#### {case[0].upper()}{case[1:]}\n")
        lines.append("| ns, median | " + " | ".join(columns) + " |")
        lines.append("|---" * (len(columns) + 1) + "|")
        peers = list(collections.OrderedDict.fromkeys(p for c in columns.values() for p in c))
        for peer in peers:
            cells = [number(columns[c].get(peer)) for c in columns]
            name = f"**{peer}**" if peer.startswith("ours") else peer
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    (RESULTS / "table.md").write_text("\n".join(lines))


def number(samples):
    if not samples:
        return ""
    median = statistics.median(samples)
    return f"{median:.1f}" if median < 100 else f"{median:,.0f}"


def bars_table():
    """The bars as a picture: a row for each, with its verdict in colour."""
    rows = []
    for name in ("bars", "growth"):
        for cells, _ in measured(RESULTS / f"{name}.md"):
            cells = [cell.strip("*`") for cell in cells]
            if len(cells) == 5 and cells[4] in VERDICTS:
                rows.append(cells)
    if not rows:
        return
    columns, height = (16, 560, 750, 830, 900), 22
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 {height * len(rows) + 62}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    heads = ("case", "measured (interval)", "bar", "goal", "")
    for x, head in zip(columns, heads):
        out.append(f'<text x="{x}" y="30" font-weight="bold">{head}</text>')
    for index, cells in enumerate(rows):
        y = 56 + index * height
        if index % 2 == 0:
            out.append(f'<rect x="8" y="{y - 15}" width="964" height="{height}" fill="#f4f4f4"/>')
        for x, cell in zip(columns, cells[:4]):
            out.append(f'<text x="{x}" y="{y}">{escape(cell)}</text>')
        colour = VERDICTS[cells[4]]
        out.append(f'<text x="{columns[4]}" y="{y}" fill="{colour}" font-weight="bold">{cells[4]}</text>')
    out.append("</svg>\n")
    (RESULTS / "bars.svg").write_text("\n".join(out))


def escape(text):
    return text.replace("`", "").replace("&", "&amp;").replace("<", "&lt;")


def pool_bars():
    """Writes `bars.md` from `bars.1.md`, `bars.2.md`, … of as many processes: of each case the median
    and, as its interval, the least and the largest of their medians. How memory is laid out differs
    between processes, and times with it, more than within one. Six make an interval of 97 %."""
    runs = sorted(RESULTS.glob("bars.[0-9].md"))
    if not runs:
        return
    found = collections.OrderedDict()
    for cells, value in (row for run in runs for row in measured(run)):
        values, rest = found.setdefault(cells[0], ([], cells[2:4]))
        values.append(value)
    bars, times, missed = [], [], []
    for case, (values, rest) in found.items():
        pooled = f"{digits(statistics.median(values))} ({digits(min(values))} .. {digits(max(values))})"
        if not rest:
            times.append(f"| {case} | {pooled} |")
            continue
        at_least, bar = rest[0].startswith("≥"), float(rest[0].split()[1])
        goal, best = float(rest[1].split()[0]), max(values) if at_least else min(values)
        # The interval must reach a bar, the median a goal: as in harness.rs for one process.
        pairs = ((best, bar), (statistics.median(values), goal))
        holds = [found >= mark if at_least else found <= mark for found, mark in pairs]
        verdict = "goal" if holds[1] else "bar" if holds[0] else "**missed**"
        bars.append(f"| {case} | {pooled} | {rest[0]} | {rest[1]} | {verdict} |")
        if not holds[0]:
            missed.append(case)
    lines = ["| case | measured (interval) | bar | goal | |", "|---|---|---|---|---|", *bars, ""]
    lines += ["| in ns, if not said otherwise | median (interval) |", "|---|---|", *times, ""]
    lines.append(f"{'Missed: ' + '; '.join(missed) + '.' if missed else 'No bar is missed.'}")
    lines.append(f"Medians of {len(runs)} processes, with the least and the largest.")
    (RESULTS / "bars.md").write_text("\n".join(lines) + "\n")


def digits(value):
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def measured(path):
    """The cells of each row of the tables in a file whose second cell begins with a number, and that."""
    for line in path.read_text().splitlines() if path.exists() else ():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        value = cells[1].split(" ")[0] if len(cells) > 1 else ""
        if value.replace(".", "", 1).replace("-", "", 1).isdigit():
            yield cells, float(value)


def read_peers():
    """{(peer, parameters): median} of `peers.tsv`."""
    medians, path = {}, RESULTS / "peers.tsv"
    for line in path.read_text().splitlines() if path.exists() else ():
        cells = line.split("\t")
        if len(cells) == 5:
            values = [float(value) for value in cells[4].split(",")]
            # Touched and untouched have the same parameters.
            if cells[1] != "a-alloc-touch-free":
                medians[cells[0], cells[2]] = statistics.median(values)
    return medians


def peers_table(peers):
    if not peers:
        return
    bars = {cells[0]: value for cells, value in measured(RESULTS / "bars.md")}

    def of_peers(key):
        if key is None or key in peers:
            return peers.get(key)
        one, two = (peers.get((key[0], f"{key[1]} {threads}T")) for threads in (1, 2))
        return two / one if one and two else None

    def cell(value):
        if value is None:
            return ""
        return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"

    heads = ("", "ours", "arrow-buffer", "DataFusion, greedy", "Arrow C++ pool", "Arrow C++ buffer", "Arrow Java")
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for case, *names in PEERS:
        values = [bars.get(name) for name in names[:3]] + [of_peers(key) for key in names[3:]]
        lines.append(f"| {case} | " + " | ".join(cell(value) for value in values) + " |")
    (RESULTS / "peers.md").write_text("\n".join(lines) + "\n")


def depth_plot(suite, peers):
    lines = collections.OrderedDict()
    for (case, backend), sources in suite.items():
        if case.startswith("allocate + free by depth"):
            lines[f"ours over {backend}"] = {
                int(name.split()[1]): statistics.median(times) for name, times in sources.items()
            }
    dashed = collections.OrderedDict()
    for (peer, parameters), median in peers.items():
        name = {"arrow-cpp proxy chain over mimalloc": "Arrow C++, pools over mimalloc"}.get(peer)
        if peer == "arrow-java unsafe" and parameters.endswith("no reservation"):
            name = "Arrow Java, unsafe"
        if name and parameters.startswith("4KiB depth "):
            dashed.setdefault(name, {})[int(parameters.split()[2])] = median
    lines.update(dashed)
    title = "Allocate + free 4 KiB, by depth of the tree"
    plot(RESULTS / "depth.svg", title, "levels", "ns", lines, dashed)


def threads_plot():
    path = RESULTS / "threads.csv"
    if not path.exists():
        return
    lines = collections.OrderedDict()
    with open(path) as file:
        for row in csv.DictReader(file):
            line = lines.setdefault(row["case"], {})
            line[int(row["threads"])] = float(row["millions_per_second"])
    title = "Allocate + free 4 KiB, all threads together"
    plot(RESULTS / "threads.svg", title, "threads", "millions per second", lines)


def plot(path, title, x_label, y_label, lines, dashed=()):
    width, height, left, right, top, bottom = 760, 400, 70, 250, 50, 50
    xs = sorted({x for line in lines.values() for x in line})
    most = max(y for line in lines.values() for y in line.values()) * 1.08
    step = nice(most / 5)
    x_of = lambda x: left + (xs.index(x) + 0.5) / len(xs) * (width - left - right)
    y_of = lambda y: height - bottom - y / most * (height - top - bottom)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="26" font-size="15">{title}</text>',
        f'<text x="{left}" y="43" fill="#666">{y_label}</text>',
    ]
    tick = 0.0
    while tick <= most:
        y = y_of(tick)
        out.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        tick += step
    for x in xs:
        out.append(f'<text x="{x_of(x):.1f}" y="{height - bottom + 20}" text-anchor="middle">{x}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">{x_label}</text>')
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name in dashed else ""
        points = [(x_of(x), y_of(y)) for x, y in sorted(line.items())]
        path_data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        out.append(f'<path d="{path_data}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = top + 16 + index * 20
        out.append(f'<path d="M{width - right + 15} {y - 4}h22" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(f'<text x="{width - right + 43}" y="{y}">{name}</text>')
    out.append("</svg>\n")
    path.write_text("\n".join(out))


def nice(rough):
    """The next of 1, 2, 5, 10, … above."""
    power = 1.0
    while power * 10 <= rough:
        power *= 10
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def fill_readme():
    readme = HERE / "README.md"
    text = readme.read_text()
    for name in ("machine", "bars", "growth", "lineitem", "backends", "adopt", "table", "peers",
                 "instructions"):
        source = RESULTS / f"{name}.md"
        if name == "instructions":
            content = "```text\n" + (HERE / "instructions.txt").read_text() + "```\n"
        elif source.exists():
            content = source.read_text().strip() + "\n"
            if name == "growth":
                content = "| case | measured (95 % interval) | bar | goal | |\n|---|---|---|---|---|\n" + content
        else:
            continue
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if begin in text:
            before, rest = text.split(begin, 1)
            text = before + begin + content + end + rest.split(end, 1)[1]
    readme.write_text(text)


if __name__ == "__main__":
    main()
