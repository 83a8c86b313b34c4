"""What was measured, as a table for a terminal and as ``docs/benchmarks.md``."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ops.bench.contest import Measure
from ops.bench.lists import LISTS
from ops.bench.run import Plan, Report
from ops.bench.sink import CLIENT_CONNECTIONS

COLUMNS = (
    "list",
    "who",
    "in flight",
    "right verdicts/s",
    "of the limit",
    "right",
    "connections",
    "client writes",
    "DNS queries",
    "CPU ms/address",
    "RSS MB",
)


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of what must be shown. ``at_most``: small is good."""

    what: str
    peers: str
    must: float
    aim: float | None
    value: float | None
    unit: str = ""
    at_most: bool = True

    @property
    def outcome(self) -> str:
        """In one word."""
        if self.value is None:
            return "not measured"
        if self._reached(self.must):
            return "aim reached" if self.aim is None or self._reached(self.aim) else "must reached"
        return "**missed**"

    def _reached(self, goal: float) -> bool:
        value = self.value or 0.0
        return value <= goal if self.at_most else value >= goal


def goals(report: Report) -> list[Goal]:
    """What must be shown, with what was measured."""
    passed = report.passes
    list_a, tarpits, pools = report.ours("A"), report.tarpits, report.pools

    def on_postfix(sessions: int) -> float | None:
        return report.postfix.ratio(sessions) if report.postfix else None

    def counted(name: str, counter: str) -> float | None:
        return passed[name].sink[counter] if name in passed else None

    return [
        Goal("addresses/s on list A, by the better peer's", "1", 8, 20, report.ratio("A"), "times", at_most=False),
        Goal("addresses/s on list Z, by the better peer's", "1", 4, 8, report.ratio("Z"), "times", at_most=False),
        Goal("list B on real Postfix, 4 sessions a provider, by the better peer's", "1", 2, 3,
             on_postfix(4), "times", at_most=False),
        Goal("list B on real Postfix, 20 sessions a provider, by the better peer's", "1", 6, 10,
             on_postfix(20), "times", at_most=False),
        Goal("connections for one pass of list A", "2,000", 200, 100, counted("A", "connections")),
        Goal("connections for one pass of list S", "2,000", 40, 20, counted("S", "connections")),
        Goal("client writes for one pass of list A", "8,000 to 10,000", 620, 400, counted("A", "reads")),
        Goal("client writes for one pass of list S", "8,000 to 10,000", 320, 150, counted("S", "reads")),
        Goal("DNS queries for one pass of list A", "6,500 to 8,000", 200, None, counted("A", "dns_queries")),
        Goal(
            "client CPU for an address of list A, instruments on", "1.0 to 1.7 ms", 0.2, 0.08,
            list_a.cpu_ms if list_a else None, "ms",
        ),
        Goal("one address alone (six round trips: 0.30 s)", "0.46 to 0.54 s", 0.33, 0.31,
             report.alone.get("mailvet"), "s"),
        Goal("RSS with 10,000 sessions to tarpits", "-", 300, 150, tarpits.rss_mb if tarpits else None, "MB"),
        Goal(
            f"synchronous pool, {pools.workers if pools else 32} threads, by the asynchronous one", "-", 0.5, None,
            pools.synchronous / pools.asynchronous if pools else None, "times", at_most=False,
        ),
    ]  # fmt: skip


def table(report: Report) -> str:
    """All runs as a Markdown table, which reads well in a terminal too."""
    rows = [_row(report, each) for each in report.measures]
    rows += [_row(report, each) for each in (report.postfix.measures if report.postfix else ())]
    rows += [_row(report, each, "one pass of ") for each in report.passes.values()]
    return "\n".join(_markdown(COLUMNS, rows))


def document(report: Report, command: str) -> str:
    """``docs/benchmarks.md``."""
    plan = report.plan
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench`; nothing here is typed by hand.",
            "",
            f"- Command: `{command}`",
            f"- Date: {report.date}; machine: {report.machine}, shared by clients, sink and whatever else ran.",
            f"- Round trip {plan.rtt_s * 1000:g} ms, made by the sink; {plan.sessions} sessions a provider that may "
            f"grow to {plan.sessions_max}{_wider(plan)}, shared by all our processes; runs of {plan.seconds:g} s or "
            "more, each contestant at its best number of addresses in flight. Peers know no limit but that number, and "
            "use all cores.",
            f"- The sink is one process with Postfix's error limits, and like Postfix it takes {CLIENT_CONNECTIONS} "
            "connections of one client; domains are new in each pass. `right` is the share of right verdicts, and they "
            "alone count. CPU is that of the client's processes alone, start-up not counted; RSS that of the largest. "
            "The limit is what round trips, sessions and error limits would leave to a client that costs no CPU.",
            *(f"- List {row.name}: {row.does}." for row in LISTS.values()),
            *(["- On Postfix: real Postfix with its default limits, the round trip made by a relay before it; ours "
               "over as many sessions a provider as are named."] if report.postfix else ()),
            "",
            "## What must be shown",
            "",
            *_markdown(
                ("what", "peers, as first measured", "must", "aim", "measured", "outcome"),
                [
                    (
                        goal.what, goal.peers, f"{goal.must:,g}", f"{goal.aim:,g}" if goal.aim is not None else "",
                        f"{_number(goal.value)} {goal.unit}".strip() if goal.value is not None else "-", goal.outcome,
                    )
                    for goal in goals(report)
                ],
            ),
            "",
            "## All runs",
            "",
            table(report),
            "",
            *_remarks(report),
            "",
        ]
    )  # fmt: skip


def _wider(plan: Plan) -> str:
    return f" (by default), and {plan.wide} from the start where that is said" if plan.wide else ""


def _remarks(report: Report) -> Iterator[str]:
    for name, seconds in report.alone.items():
        yield f"- One address alone, {name}: {seconds:.3f} s."
    if pools := report.pools:
        yield (
            f"- {pools.workers} sessions with one provider: {pools.asynchronous:,.0f} recipients/s through the "
            f"asynchronous pool, {pools.synchronous:,.0f}/s through the synchronous one from {pools.workers} threads; "
            f"{pools.leaked} sessions left open after it."
        )
    for each in report.postfix.measures if report.postfix else ():
        late = each.sink["late_replies"]
        yield f"- Replies that Postfix held back for a second, {each.contestant}: {late:,.0f}."
    if tarpits := report.tarpits:
        sessions, unanswered = tarpits.sink["connections"], tarpits.sink["recipients"]
        yield f"- Tarpits: {sessions:,.0f} sessions, {unanswered:,.0f} RCPT without an answer."


def _row(report: Report, each: Measure, prefix: str = "") -> tuple[str, ...]:
    limit = report.limit_of(each)
    share = f"{each.rate / limit:.0%}" if not prefix and limit < math.inf else "-"
    return (
        prefix + each.list_name,
        each.contestant,
        f"{each.in_flight:,}",
        f"{each.rate:,.0f}",
        share,
        f"{each.right_share:.2%}",
        *(f"{each.sink.get(name, 0):,.0f}" for name in ("connections", "reads", "dns_queries")),
        f"{each.cpu_ms:.3f}",
        f"{each.rss_mb:.0f}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (heading, ["---"] * len(heading), *rows):
        yield f"| {' | '.join(row)} |"
