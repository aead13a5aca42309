//! The one place where metrics have names: what a scrape says.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

mod connections;

use super::cell::{Histogram, Label, Labelled, Measure};
use super::families::{Families, Family, Written};
use super::{BackendMetrics, CallMetrics, Gauges, Metrics, ProcessMetrics, RouteMetrics, process};

/// The whole exposition.
pub(super) fn render(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape::new(metrics)));
    let mut text = String::with_capacity(32 * 1024);
    // Writing to a string does not fail; a collector that did would leave the text cut short,
    // which a scraper notices by the missing end mark.
    if text::encode(&mut text, &registry).is_err() {
        text.clear();
    }
    text
}

/// Everything that one scrape shows, gathered before anything is written.
#[derive(Debug)]
struct Scrape {
    metrics: Metrics,
    backends: Vec<(Arc<BackendMetrics>, Gauges)>,
    routes: Vec<(Arc<str>, Arc<RouteMetrics>)>,
}

impl Scrape {
    fn new(metrics: &Metrics) -> Self {
        let mut backends = metrics.inner.backends.lock().clone();
        let mut routes = Vec::new();
        for backend in &backends {
            let own = backend.routes.lock().clone();
            routes.extend(own.into_iter().map(|route| (Arc::clone(&backend.name), route)));
        }
        let other_route = &metrics.inner.other_route;
        if other_route.calls.replies.total() > 0 {
            routes.push((Arc::clone(&other_route.name), Arc::clone(other_route)));
        }
        let other = &metrics.inner.other;
        if Arc::strong_count(other) > 1 {
            backends.push(Arc::clone(other));
        }
        let backends = backends
            .into_iter()
            .map(|backend| (Arc::clone(&backend), backend.gauges()))
            .collect();
        Self {
            metrics: metrics.clone(),
            backends,
            routes,
        }
    }

    fn calls(&self) -> impl Iterator<Item = (&str, &str, &CallMetrics)> {
        let passed = self
            .backends
            .iter()
            .map(|(backend, _)| (&*backend.name, "", &backend.pass_through));
        passed.chain(
            self.routes
                .iter()
                .map(|(backend, route)| (&**backend, &*route.name, &route.calls)),
        )
    }

    fn downstream(&self, to: &mut Families<'_>) -> Written {
        to.counters(
            "jitney_calls_total",
            "Calls answered; an empty route: passed through",
            |family| {
                self.calls().try_for_each(|(backend, route, calls)| {
                    family.each(&[("backend", backend), ("route", route)], "class", &calls.replies)
                })
            },
        )?;
        to.histograms(
            "jitney_call_duration_seconds",
            "From a call's head to the end of its reply",
            |family| {
                self.calls().try_for_each(|(backend, route, calls)| {
                    family.histogram(&[("backend", backend), ("route", route)], &calls.duration)
                })
            },
        )
    }

    fn batches(&self, to: &mut Families<'_>) -> Written {
        self.histogram(to, "jitney_batch_size", "Items in a batch", |route| {
            &route.batch_size
        })?;
        self.histogram(to, "jitney_batch_bytes", "Body bytes in a batch", |route| {
            &route.batch_bytes
        })?;
        to.counters(
            "jitney_batch_dispatch_total",
            "Batches by why they left",
            |family| self.each_route(family, "reason", |route| &route.dispatch),
        )?;
        self.histogram(
            to,
            "jitney_queue_wait_seconds",
            "What a call waited for its batch",
            |route| &route.queue_wait,
        )?;
        to.counters(
            "jitney_bypass_total",
            "Calls that travelled alone, by reason",
            |family| {
                self.routes.iter().try_for_each(|(backend, route)| {
                    family.seen(
                        &[("backend", backend), ("route", &route.name)],
                        "reason",
                        &route.bypass,
                    )
                })
            },
        )?;
        to.counters(
            "jitney_items_total",
            "Queued items by what became of them",
            |family| self.each_route(family, "outcome", |route| &route.items),
        )?;
        self.count(
            to,
            "jitney_upstream_calls_saved_total",
            "Calls without an upstream call",
            |route| route.calls_saved.value(),
        )?;
        self.count(
            to,
            "jitney_shadow_calls_saved_total",
            "What shadow mode would have saved",
            |route| route.shadow_calls_saved.value(),
        )?;
        to.counters(
            "jitney_batch_failures_total",
            "Batches that failed as a whole",
            |family| self.each_route(family, "kind", |route| &route.batch_failures),
        )?;
        self.count(
            to,
            "jitney_bisect_calls_total",
            "Extra calls to find a bad item",
            |route| route.bisect_calls.value(),
        )?;
        self.count(
            to,
            "jitney_poison_items_total",
            "Items that fail a whole batch",
            |route| route.poison_items.value(),
        )?;
        to.counters(
            "jitney_cancelled_total",
            "Callers that left, by where their call was",
            |family| self.each_route(family, "stage", |route| &route.cancelled),
        )
    }

    fn upstream(&self, to: &mut Families<'_>) -> Written {
        to.counters(
            "jitney_upstream_calls_total",
            "Requests sent upstream, by why",
            |family| self.each_backend(family, "kind", |backend| &backend.upstream_calls),
        )?;
        to.counters(
            "jitney_upstream_replies_total",
            "Replies from upstream",
            |family| self.each_backend(family, "class", |backend| &backend.upstream_replies),
        )?;
        to.histograms(
            "jitney_upstream_duration_seconds",
            "From a request to its reply's head",
            |family| {
                self.backends.iter().try_for_each(|(backend, _)| {
                    family.histogram(&[("backend", &backend.name)], &backend.upstream_duration)
                })
            },
        )?;
        to.counters(
            "jitney_errors_total",
            "Calls that got an error or were shed, by reason",
            |family| {
                self.backends.iter().try_for_each(|(backend, _)| {
                    family.seen(&[("backend", &backend.name)], "reason", &backend.errors)
                })
            },
        )?;
        to.counters(
            "jitney_mirror_total",
            "Copies of a backend's calls, by what became of them",
            |family| {
                self.backends.iter().try_for_each(|(backend, _)| {
                    family.seen(&[("backend", &backend.name)], "outcome", &backend.mirrored)
                })
            },
        )?;
        to.counters(
            "jitney_faults_injected_total",
            "Calls that waited or failed on purpose",
            |family| {
                self.backends.iter().try_for_each(|(backend, _)| {
                    family.seen(&[("backend", &backend.name)], "fault", &backend.faults)
                })
            },
        )?;
        self.tally(
            to,
            "jitney_late_replies_total",
            "Replies nobody waited for any more",
            |backend, _| backend.late_replies.value(),
        )
    }

    fn dispatcher(&self, to: &mut Families<'_>) -> Written {
        self.level(to, "jitney_queue_items", "Items that wait", |_, now| {
            now.queue_items as f64
        })?;
        self.level(
            to,
            "jitney_queue_oldest_age_seconds",
            "Wait of the oldest item",
            |_, now| now.queue_oldest_age.as_secs_f64(),
        )?;
        self.level(to, "jitney_batches_in_flight", "Batches in flight", |_, now| {
            now.batches_in_flight as f64
        })?;
        self.level(to, "jitney_window", "Batches that may be in flight", |_, now| {
            now.window
        })?;
        to.gauges(
            "jitney_concurrency_limit",
            "Requests that may be in flight, as learned; of backends where that is learned",
            |family| {
                let learned = self.backends.iter();
                let mut learned = learned.filter_map(|(one, now)| Some((one, now.concurrency_limit?)));
                learned.try_for_each(|(backend, limit)| {
                    family.gauge(&[("backend", &backend.name)], &(limit as f64))
                })
            },
        )?;
        self.measure(
            to,
            "jitney_cost_fixed_seconds",
            "Learned cost of a batch",
            |route| &route.cost_fixed,
        )?;
        self.measure(
            to,
            "jitney_cost_per_item_seconds",
            "Learned cost of one more item",
            |route| &route.cost_per_item,
        )?;
        self.level(
            to,
            "jitney_latency_inflation",
            "Duration of batches over the learned one",
            |_, now| now.latency_inflation,
        )?;
        self.level(to, "jitney_keys", "Open batch keys", |_, now| now.keys as f64)?;
        self.tally(
            to,
            "jitney_key_evictions_total",
            "Idle batch keys forgotten",
            |_, now| now.key_evictions,
        )
    }

    /// The stream to the control plane, where there is to be one.
    fn following(&self, to: &mut Families<'_>) -> Written {
        let process = self.metrics.process();
        if let Some((connected, age)) = process.control_plane.read() {
            let (one, other) = (
                "1: the stream to the control plane is open",
                "Seconds without a control plane to say that what is in force is the latest",
            );
            to.gauge("jitney_control_plane_connected", one, connected)?;
            to.gauge("jitney_config_age_seconds", other, age)?;
            to.gauge(
                "jitney_config_generation",
                "Changes of policy that the control plane pushed and that came into force",
                process.policy_generation.value(),
            )?;
        }
        Ok(())
    }

    fn process(&self, to: &mut Families<'_>) -> Written {
        let ProcessMetrics {
            policy_generation,
            policy_refusals,
            policy_faulty,
            config_rejected,
            listeners_pending,
            draining,
            memory_pressure,
            ..
        } = self.metrics.process();
        to.gauge(
            "jitney_policy_generation",
            "Policies applied since start",
            policy_generation.value(),
        )?;
        to.counter(
            "jitney_policy_refusals_total",
            "Policies refused since start",
            policy_refusals.value(),
        )?;
        to.gauge(
            "jitney_policy_faulty",
            "1: the files hold a policy that was refused",
            policy_faulty.value(),
        )?;
        self.following(to)?;
        to.counter(
            "jitney_config_rejected_total",
            "Resources of the control plane that were rejected",
            config_rejected.value(),
        )?;
        to.gauge(
            "jitney_listeners_pending",
            "Listeners whose addresses cannot be bound and are tried again",
            listeners_pending.value(),
        )?;
        to.gauge(
            "jitney_draining",
            "1: this sidecar is going away",
            draining.value(),
        )?;
        to.gauge(
            "jitney_memory_pressure",
            "1: memory is short and less is queued; 2: calls are shed for it",
            memory_pressure.value(),
        )?;
        to.gauges("jitney_build_info", "The version that runs", |family| {
            family.gauge(&[("version", env!("CARGO_PKG_VERSION"))], &1_i64)
        })?;
        let usage = process::Usage::read();
        to.counters(
            "process_cpu_seconds_total",
            "CPU time, user and system",
            |family| family.counter(&[], &usage.cpu_seconds),
        )?;
        to.gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            usage.resident_bytes,
        )?;
        to.gauge("process_open_fds", "Open file descriptors", usage.open_files)?;
        to.gauge("process_threads", "Threads", usage.threads)
    }

    fn each_route<L: Label>(
        &self,
        family: &mut Family<'_>,
        label: &'static str,
        of: impl Fn(&RouteMetrics) -> &Labelled<L>,
    ) -> Written {
        self.routes.iter().try_for_each(|(backend, route)| {
            family.each(&[("backend", backend), ("route", &route.name)], label, of(route))
        })
    }

    fn each_backend<L: Label>(
        &self,
        family: &mut Family<'_>,
        label: &'static str,
        of: impl Fn(&BackendMetrics) -> &Labelled<L>,
    ) -> Written {
        self.backends
            .iter()
            .try_for_each(|(backend, _)| family.each(&[("backend", &backend.name)], label, of(backend)))
    }

    fn histogram(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&RouteMetrics) -> &Histogram,
    ) -> Written {
        to.histograms(name, help, |family| {
            self.routes.iter().try_for_each(|(backend, route)| {
                family.histogram(&[("backend", backend), ("route", &route.name)], of(route))
            })
        })
    }

    fn count(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&RouteMetrics) -> u64,
    ) -> Written {
        to.counters(name, help, |family| {
            self.routes.iter().try_for_each(|(backend, route)| {
                family.counter(&[("backend", backend), ("route", &route.name)], &of(route))
            })
        })
    }

    fn measure(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&RouteMetrics) -> &Measure,
    ) -> Written {
        to.gauges(name, help, |family| {
            self.routes.iter().try_for_each(|(backend, route)| {
                family.gauge(
                    &[("backend", backend), ("route", &route.name)],
                    &of(route).value(),
                )
            })
        })
    }

    fn tally(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&BackendMetrics, &Gauges) -> u64,
    ) -> Written {
        to.counters(name, help, |family| {
            self.backends.iter().try_for_each(|(backend, now)| {
                family.counter(&[("backend", &backend.name)], &of(backend, now))
            })
        })
    }

    fn level(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&BackendMetrics, &Gauges) -> f64,
    ) -> Written {
        to.gauges(name, help, |family| {
            self.backends
                .iter()
                .try_for_each(|(backend, now)| family.gauge(&[("backend", &backend.name)], &of(backend, now)))
        })
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Written {
        let mut to = Families::new(encoder);
        self.downstream(&mut to)?;
        self.batches(&mut to)?;
        self.upstream(&mut to)?;
        self.connections(&mut to)?;
        self.dispatcher(&mut to)?;
        self.process(&mut to)
    }
}
