//! What is shown of connections, those of callers and those to endpoints.

use super::{Families, Scrape, Written};

impl Scrape {
    pub(super) fn connections(&self, to: &mut Families<'_>) -> Written {
        let process = self.metrics.process();
        to.gauge(
            "jitney_downstream_connections",
            "Open connections of callers",
            process.downstream_connections.value(),
        )?;
        to.counters(
            "jitney_downstream_connections_total",
            "Connections of callers",
            |family| family.each(&[], "protocol", &process.downstream_connections_total),
        )?;
        to.counters(
            "jitney_refused_connections_total",
            "Connections of callers that were closed as soon as they were accepted",
            |family| family.each(&[], "reason", &process.refused_connections),
        )?;
        to.counters(
            "jitney_unauthorized_total",
            "Calls, and connections that are not HTTP, that no rule of the workload's authorization allows",
            |family| family.each(&[], "mode", &process.unauthorized),
        )?;
        self.tally(
            to,
            "jitney_upstream_connects_total",
            "Connections made to endpoints",
            |backend, _| backend.upstream_connects.value(),
        )?;
        self.tally(
            to,
            "jitney_upstream_received_bytes_total",
            "Bytes read from endpoints, as they are on the wire",
            |backend, _| backend.upstream_received.value(),
        )?;
        self.tally(
            to,
            "jitney_upstream_sent_bytes_total",
            "Bytes written to endpoints, as they are on the wire",
            |backend, _| backend.upstream_sent.value(),
        )?;
        self.level(
            to,
            "jitney_upstream_connections",
            "Open connections to endpoints",
            |backend, _| backend.upstream_connections.value() as f64,
        )
    }
}
