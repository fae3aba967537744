//! The text that Prometheus reads, version 0.0.4: for each family two lines about it, then its samples.

use std::{fmt::Write as _, time::Duration};

use phantom_protocol::wire::cell::CELL;

use super::{Measures, Wishes};

/// Everything there is to tell.
pub(super) fn render(measures: &Measures, wishes: &Wishes) -> String {
    let mut text = Text::default();
    network(&mut text, measures);
    links(&mut text, measures);
    paths(&mut text, measures);
    parties(&mut text, measures);
    text.counter(
        "phantom_wishes_granted_total",
        "What programs asked for at the proxy port and got.",
        wishes.granted(),
    );
    text.family("phantom_wishes_refused_total", "counter", "What programs asked for in vain, by reason.");
    for (reason, count) in wishes.refused() {
        text.labelled("phantom_wishes_refused_total", "reason", reason, count);
    }
    text.0
}

fn network(text: &mut Text, measures: &Measures) {
    text.family("phantom_build_info", "gauge", "Which version runs.");
    text.labelled("phantom_build_info", "version", env!("CARGO_PKG_VERSION"), 1);
    text.family("phantom_uptime_seconds", "gauge", "How long the node has run.");
    text.sample("phantom_uptime_seconds", measures.uptime.as_secs_f64());
    text.gauge("phantom_known_nodes", "Nodes of the network that are known here.", measures.known_nodes);
}

fn links(text: &mut Text, measures: &Measures) {
    let Measures { carried, .. } = measures;
    text.family("phantom_links", "gauge", "Links to other nodes that stand, by who has dialled.");
    text.labelled("phantom_links", "dialled_by", "us", measures.links_dialled as u64);
    text.labelled("phantom_links", "dialled_by", "them", measures.links_accepted as u64);
    text.family("phantom_links_ended_total", "counter", "Links that have ended, by reason.");
    for (reason, count) in &measures.links_ended {
        text.labelled("phantom_links_ended_total", "reason", reason, *count);
    }
    text.family("phantom_dials_failed_total", "counter", "Dials that brought no link, by reason.");
    for (reason, count) in &measures.dials_failed {
        text.labelled("phantom_dials_failed_total", "reason", reason, *count);
    }
    text.family("phantom_cells_total", "counter", "Cells that links have carried, by direction.");
    text.directions("phantom_cells_total", carried.cells_in, carried.cells_out);
    text.family("phantom_bytes_total", "counter", "Bytes of these cells, before TLS, by direction.");
    let bytes = |cells: u64| cells * CELL as u64;
    text.directions("phantom_bytes_total", bytes(carried.cells_in), bytes(carried.cells_out));
    text.counter(
        "phantom_cells_dropped_total",
        "Cells dropped because they had waited too long, or memory was at its limit.",
        carried.dropped,
    );
    text.gauge("phantom_cells_waiting", "Cells that wait for a link.", measures.cells_waiting);
}

fn paths(text: &mut Text, measures: &Measures) {
    text.family("phantom_own_paths", "gauge", "Own routing paths that stand, by purpose.");
    for (purpose, count) in &measures.paths {
        text.labelled("phantom_own_paths", "purpose", purpose, *count);
    }
    text.counter("phantom_paths_built_total", "Own routing paths that were built.", measures.paths_built);
    text.counter(
        "phantom_paths_failed_total",
        "Own routing paths that were tried in vain.",
        measures.paths_failed,
    );
    let name = "phantom_path_build_seconds";
    text.family(name, "summary", "How long own routing paths took to build; quantiles of the latest.");
    for quantile in [50, 90, 99] {
        let place = measures.build_times.len().saturating_sub(1) * quantile / 100;
        let time = measures.build_times.get(place).map_or(f64::NAN, Duration::as_secs_f64);
        let _ = writeln!(text.0, "{name}{{quantile=\"0.{quantile}\"}} {}", Number(time));
    }
    text.sample(&format!("{name}_sum"), measures.build_time.as_secs_f64());
    text.sample(&format!("{name}_count"), measures.paths_built as f64);
    text.gauge(
        "phantom_paths",
        "Routing paths of all owners that this node has a part in.",
        measures.paths_here,
    );
    text.gauge("phantom_tunnels", "Routing tunnels in them.", measures.tunnels_here);
    text.gauge("phantom_joins", "Joins of an exit with an entry node.", measures.joins);
    text.gauge("phantom_own_tunnels", "Own routing tunnels.", measures.tunnels_own);
    text.counter(
        "phantom_tunnels_broken_total",
        "Routing tunnels closed because too much of them was missing.",
        measures.tunnels_broken,
    );
}

fn parties(text: &mut Text, measures: &Measures) {
    text.family("phantom_sessions", "gauge", "Sessions that are open, by who has begun them.");
    text.labelled("phantom_sessions", "begun_by", "us", measures.sessions as u64);
    text.labelled("phantom_sessions", "begun_by", "visitors", measures.visitors as u64);
    text.gauge("phantom_services", "Published ports.", measures.services);
    text.gauge("phantom_service_entries", "Ways in to services that stand.", measures.entries);
}

#[derive(Default)]
struct Text(String);

// Writing to a string cannot fail.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, value: f64) {
        let _ = writeln!(self.0, "{name} {}", Number(value));
    }

    fn labelled(&mut self, name: &str, label: &str, word: &str, value: u64) {
        let _ = writeln!(self.0, "{name}{{{label}=\"{word}\"}} {value}");
    }

    fn directions(&mut self, name: &str, inward: u64, outward: u64) {
        self.labelled(name, "direction", "in", inward);
        self.labelled(name, "direction", "out", outward);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        self.family(name, "gauge", help);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

/// A number as Prometheus writes it.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_nan() { f.write_str("NaN") } else { self.0.fmt(f) }
    }
}
