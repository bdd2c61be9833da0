#!/usr/bin/env python3
"""Renders the output of the benchmarks: three tables, and one picture.

    benches/render.py            reads and writes benches/results/

Reads `machine.md`, `bars.1.md` and so on (one for each process of the bench `bars`), `suite.tsv` (from the bench
`suite`) and `peers.tsv` (the output of a harness for peers in other languages). Writes `bars.md`, `table.md`,
`peers.md` and `depth.svg`; a file without its source is not changed. Needs nothing but Python.
"""

import collections
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
MIMALLOC, JAVA = "arrow-cpp mimalloc AllocateBuffer", "arrow-java unsafe"

# The table of peers: the name of the case, and its key in `bars.md` (ours, arrow-buffer's, DataFusion's) and in
# `peers.tsv` (Arrow C++'s, as a pool and as a buffer, and Arrow Java's). Some keys are the
# scaling from one thread to two.
PEERS = (
    ("allocate + free 4 KiB", "4 KiB, mimalloc, depth 1", "4 KiB, mimalloc, arrow_buffer", None,
     ("arrow-cpp mimalloc pool", "4KiB"), (f"{MIMALLOC} (default pool)", "4KiB"), (JAVA, "4KiB depth 1 no reservation")),
    ("the same, six levels", "4 KiB, mimalloc, depth 6", None, None,
     ("arrow-cpp proxy chain over mimalloc", "4KiB depth 6 (base + 5 proxies)"), None,
     (JAVA, "4KiB depth 6 no reservation")),
    ("clone + drop", "clone + drop", "clone + drop, arrow_buffer", None,
     None, ("arrow-cpp Buffer", "shared_ptr copy+drop"), (JAVA, "retain+release")),
    ("slice + drop", "slice + drop", "slice + drop, arrow_buffer", None,
     None, ("arrow-cpp Buffer", "SliceBuffer(64,1024)+drop"), (JAVA, "slice(64,1024)+retain+release")),
    ("to a sibling and back", "transfer_ownership to a sibling and back", None, None,
     None, None, (JAVA, "transferOwnership to sibling and back")),
    ("charge and release 4 KiB, no memory", "allocate_bytes, up and down", None, "GreedyMemoryPool, up and down",
     None, None, (JAVA, "4KiB forceAllocate+releaseBytes depth 1")),
    ("the same, six levels", "allocate_bytes, up and down", None, None,
     None, None, (JAVA, "4KiB forceAllocate+releaseBytes depth 6")),
    ("child created and closed", "child created and closed", None, None,
     ("arrow-cpp", "ProxyMemoryPool new+delete"), None, (JAVA, "newChildAllocator+close")),
    ("bytes beside 64, for each live buffer", "bookkeeping per live 64-byte buffer, mimalloc, handle included",
     "bytes beside 64, one million live, mimalloc, arrow_buffer", None,
     None, (MIMALLOC, "64B live, handle 8B"), (JAVA, "64B live, handle 4B (compressed ref)")),
    ("two threads / one, own child each, ×", "2 threads / 1 thread, 4 KiB, own child", None, None,
     ("arrow-cpp mimalloc pool", "4KiB own Proxy each over one shared pool"), None, (JAVA, "4KiB own child of one root")),
    ("two threads / one, one allocator, ×", "2 threads / 1 thread, 4 KiB, shared", None, None,
     ("arrow-cpp mimalloc pool", "4KiB same pool"), (MIMALLOC, "4KiB same pool"), (JAVA, "4KiB same allocator")),
)


def main():
    pool_bars()
    suite_table()
    peers = read_peers()
    bars = {cells[0]: value for cells, value in measured(RESULTS / "bars.md")}
    if peers and bars:
        peers_table(peers, bars)
        depth_picture(peers, bars)


def write(name, lines):
    """Writes a table, below the line with the command, the machine and the date."""
    (RESULTS / name).write_text("\n".join([(RESULTS / "machine.md").read_text(), *lines]) + "\n")


def rows_of(path):
    return [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []


def measured(path):
    """The rows of the tables in a file whose second cell begins with a number: their cells, and that number."""
    for line in path.read_text().splitlines() if path.exists() else ():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        value = cells[1].split(" ")[0] if len(cells) > 1 else ""
        if value.replace(".", "", 1).replace("-", "", 1).isdigit():
            yield cells, float(value)


def pool_bars():
    """Writes `bars.md`: for each case the median of the processes' medians, and as its interval their minimum and
    maximum. The layout of memory, and times with it, vary more between processes than within one. With six
    processes the interval is one of 97 %."""
    runs = sorted(RESULTS.glob("bars.[0-9].md"))
    if not runs:
        return
    digits = lambda value: f"{value:.3f}" if value < 10 else f"{value:.1f}"
    found, bars, times, missed = collections.OrderedDict(), [], [], []
    for cells, value in (row for run in runs for row in measured(run)):
        found.setdefault(cells[0], ([], cells[2:4]))[0].append(value)
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
        missed += [] if holds[0] else [case]
    write("bars.md", ["| case | measured (interval) | bar | goal | |", "|---|---|---|---|---|", *bars, "",
                      "| in ns, if not said otherwise | median (interval) |", "|---|---|", *times, "",
                      f"{'Missed: ' + '; '.join(missed) + '.' if missed else 'No bar is missed.'}",
                      f"Medians of {len(runs)} processes, with the lowest and the highest."])


def suite_table():
    cases, lines = {}, []
    for peer, case, column, _unit, values in (row for row in rows_of(RESULTS / "suite.tsv") if len(row) == 5):
        median = statistics.median(float(value) for value in values.split(","))
        cell = f"{median:.1f}" if median < 100 else f"{median:,.0f}"
        columns, peers = cases.setdefault(case, ({}, {}))
        columns[column] = peers.setdefault(peer, {})[column] = cell
    for case, (columns, peers) in cases.items():
        lines += [f"#### {case[0].upper()}{case[1:]}\n", f"| ns, median | {' | '.join(columns)} |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for peer, cells in peers.items():
            name = f"**{peer}**" if peer.startswith("ours") else peer
            lines.append(f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |")
        lines.append("")
    if lines:
        write("table.md", lines)


def read_peers():
    """{(peer, parameters): median} of `peers.tsv`. If several cases have the same parameters, the first counts."""
    medians = {}
    for peer, _case, parameters, _unit, values in (row for row in rows_of(RESULTS / "peers.tsv") if len(row) == 5):
        medians.setdefault((peer, parameters), statistics.median(float(value) for value in values.split(",")))
    return medians


def peers_table(peers, bars):
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
        lines.append(f"| {case} | {' | '.join(cell(value) for value in values)} |")
    write("peers.md", lines)


def depth_picture(peers, bars):
    """Two panels by depth of the tree: with memory, and the charge alone. Peers without a tree are dashed."""
    java = lambda text: {depth: peers[JAVA, text.format(depth)] for depth in (1, 2, 3, 6)}
    chain = {depth: peers["arrow-cpp proxy chain over mimalloc", f"4KiB depth {depth} (base + {depth - 1} proxies)"]
             for depth in (1, 2, 3, 6)}
    charges = next(cells for cells, _ in measured(RESULTS / "table.md") if cells[0] == "allocate_bytes")
    panels = (
        ("Allocate + free 4 KiB, ns", (
            ("Arrow Java", "#228833", java("4KiB depth {} no reservation")),
            ("Arrow C++ pools", "#ee6677", chain),
            ("arrow-memory", "#004488", {depth: bars[f"4 KiB, mimalloc, depth {depth}"] for depth in (1, 3, 6)}),
            ("arrow-rs, no tree", "#777777", {0: bars["4 KiB, mimalloc, arrow_buffer"]}))),
        ("Charge + release 4 KiB without memory, ns", (
            ("Arrow Java", "#228833", java("4KiB forceAllocate+releaseBytes depth {}")),
            ("DataFusion, no tree", "#777777", {0: bars["GreedyMemoryPool, up and down"]}),
            ("arrow-memory", "#004488", {depth: float(cell) for depth, cell in zip((1, 3, 6), charges[1:])}))),
    )
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1040 360" font-family="sans-serif" font-size="13">',
           '<rect width="1040" height="360" fill="white"/>']
    text = lambda x, y, words, more="": out.append(f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>')
    for left, (title, lines) in zip((40, 540), panels):
        top = max(value for _, _, line in lines for value in line.values()) * 1.08
        x_of, y_of = lambda depth: left + 20 + (depth - 1) * 50, lambda value: 300 - value / top * 240
        text(left, 30, title, 'font-size="16"')
        out.append(f'<path d="M{left} 300H{left + 285}" stroke="#999"/>')
        for depth in (1, 2, 3, 6):
            text(x_of(depth), 318, depth, 'text-anchor="middle"')
        text(left + 145, 336, "levels of the tree", 'text-anchor="middle" fill="#555"')
        label = 0
        for name, colour, line in sorted(lines, key=lambda line: -line[2][max(line[2])]):
            last, numbers = line[max(line)], " → ".join(f"{line[depth]:.1f}" for depth in sorted({min(line), max(line)}))
            style = ' stroke-dasharray="5 4"' if 0 in line else ""
            line = {1: last, 6: last} if 0 in line else line
            path = "L".join(f"{x_of(depth)} {y_of(value):.1f}" for depth, value in line.items())
            width = 4 if name == "arrow-memory" else 2
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>')
            label = max(y_of(last) + 4, label + 18)
            weight = ' font-weight="bold"' if name == "arrow-memory" else ""
            text(left + 295, label, f"{name} {numbers}", f'fill="{colour}"{weight}')
    text(40, 354, (RESULTS / "machine.md").read_text().strip().replace("`", ""), 'font-size="10" fill="#555"')
    (RESULTS / "depth.svg").write_text("\n".join([*out, "</svg>\n"]))


if __name__ == "__main__":
    main()
