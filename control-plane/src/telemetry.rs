//! Per-hop latency, merged over the proxies that report it.
