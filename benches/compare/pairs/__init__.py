"""The pairs that are compared: each starts an outbound proxy beside the client and an inbound one beside the
application. `PAIRS` is the order of a round."""

from dataclasses import dataclass, field

from bed import Failed, Process


@dataclass
class Pair:
    """A running pair: where clients reach it, and its processes. No processes: no proxy."""

    name: str
    target: tuple
    outbound: Process | None = None
    inbound: Process | None = None
    http2_target: tuple | None = None
    # What else must live while it is measured.
    others: list = field(default_factory=list)

    def processes(self):
        return [process for process in (self.outbound, self.inbound) if process]

    def alive(self):
        for process in [*self.processes(), *self.others]:
            process.alive()


def start(name, bed, authority):
    """Starts the pair of that name; returns before it serves."""
    from . import direct, engines, envoy, haproxy, outrigger, relay

    makers = {
        "direct": direct.start,
        "relay": relay.start,
        "envoy": envoy.start,
        "envoy-full": envoy.start_full,
        "envoy-mux": envoy.start_mux,
        "haproxy": haproxy.start,
        "outrigger": outrigger.start,
        "hyper-h1": engines.start_hyper_h1,
        "hyper-mux": engines.start_hyper_mux,
        "pingora": engines.start_pingora,
    }
    if name not in makers:
        raise Failed(f"there is no pair '{name}'; known: {', '.join(makers)}")
    return makers[name](bed, authority)
