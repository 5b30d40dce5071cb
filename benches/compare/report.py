"""The tables, in Markdown: one for each cell, and the verdict on each bar; and the page that shows them."""

import figures

# What `make bench` writes of the page lies between these lines.
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"

# Figures of a cell under load: heading, key, form, whether the ratio to bare Envoy stands beside it.
LOADED = [("requests/s", "rps", "{:,.0f}", False), ("p50 µs", "p50_us", "{:,.0f}", False),
          ("p99 µs", "p99_us", "{:,.0f}", False), ("CPU µs/request", "cpu_us", "{:.1f}", True),
          ("outbound", "cpu_outbound_us", "{:.1f}", False), ("inbound", "cpu_inbound_us", "{:.1f}", False),
          ("busy", "busy", "{:.2f}", False)]
LARGE = [("GB/s", "gb_per_s", "{:.2f}", False), ("CPU s/GB", "cpu_s_per_gb", "{:.2f}", True),
         ("busy", "busy", "{:.2f}", False)]
IDLE = [("RSS outbound MB", "rss_outbound_mb", "{:.1f}", False), ("inbound", "rss_inbound_mb", "{:.1f}", False),
        ("heap outbound MB", "heap_outbound_mb", "{:.1f}", False), ("inbound", "heap_inbound_mb", "{:.1f}", False),
        ("connections", "connections", "{:,}", False), ("KiB per connection", "kib_per_connection", "{:.1f}", False),
        ("CPU ms/s", "idle_cpu_ms_per_s", "{:.2f}", False), ("wake-ups/s", "idle_wakeups_per_s", "{:.1f}", False)]


def publish(page, about, tables, where):
    """Puts a result into the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    settings = "".join(f"* {key}: {value}\n" for key, value in [
        ("measured", about["date"]), ("commit", f"`{about['commit']}`"), ("command", f"`{about['command']}`"),
        ("machine", f"{about['cpu']}, {about['processors']} processors, Linux {about['kernel']}, "
                    f"load {about['load_at_start'][0]:.1f} when it began"),
        ("programs", "; ".join(about["versions"].values())), ("raw data", f"`{where}`")])
    page.write_text(f"{before}{BEGIN}\n{settings}\n{tables}\n{END}{after}")


def render(results, cells, pairs, seconds):
    """All tables; first of all the bars, when our pair is among the pairs."""
    parts = [_bars(results, cells, figures.OURS)] if figures.OURS in pairs else []
    return "\n".join(parts + [_cell(results, cell, pairs, seconds) for cell in cells])


def _cell(results, cell, pairs, seconds):
    columns = {"idle": IDLE, "large": LARGE}.get(cell.name, LOADED)
    rows = []
    measured = {line["pair"] for line in results.lines if line["cell"] == cell.name}
    for pair in (pair for pair in pairs if pair in measured):
        row = [pair]
        for _, key, form, relative in columns:
            value = results.median(cell, pair, key)
            ratio = results.ratio(cell, pair, key) if relative and pair != figures.BASE else None
            text = "" if value is None else form.format(value)
            row.append(f"{text} (**{ratio.median:.2f}**, {ratio.low:.2f}–{ratio.high:.2f})" if ratio else text)
        rows.append(row)
    left_out, unsteady = results.left_out(cell), results.unsteady(cell)
    about = f"Rounds: {len(results.measured(cell) - left_out)}" + (f" of {seconds} s" if cell.generate else "")
    if left_out:
        about += f"; {len(left_out)} more left out, in which *{figures.STEADY}* was unsteady"
    elif unsteady:
        about += f"; the machine was not quiet: *{figures.STEADY}* was unsteady in {len(unsteady)} of them"
    head = ["pair", *(heading for heading, *_ in columns)]
    return f"### {cell.title}\n\n{about}.\n\n" + _table(head, rows) + _failures(results, cell)


def _failures(results, cell):
    failed = {}
    for line in results.lines:
        if line["cell"] == cell.name and "failed" in line:
            failed.setdefault(line["pair"], line["failed"].splitlines()[0][:160])
    return "".join(f"\n`{pair}` failed: {why}\n" for pair, why in failed.items())


def _bars(results, cells, pair):
    rows = []
    for bar in figures.BARS:
        found, holds = bar.verdict(results, cells, pair)
        measured = f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})" if found else "not measured"
        against = "" if bar.alone else "of bare Envoy"
        rows.append([bar.promise, f"≤ {bar.limit:g} {against}".strip(), measured,
                     "" if holds is None else "holds" if holds else "**does not hold**"])
    return f"### Bars for {pair}\n\n" + _table(["promise", "bar", "measured", "verdict"], rows)


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
