//! The one place where the control plane's metrics have names: what is counted, and what a scrape says.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jitney_api::push::Kind;
use jitney_api::push::config::Cause;
use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::identity::Life;
use crate::inject::review::Outcome;

mod labels;

use labels::{OfNack, OfOutcome, OfReason, OfResult, OfRoot, OfState, OfStep, OfType};

/// What is counted as it happens. A clone counts together with the one it was cloned from.
#[derive(Clone, Debug)]
pub struct Counts {
    pushes: Family<OfType, Counter>,
    resources: Family<OfType, Counter>,
    nacks: Family<OfNack, Counter>,
    propagation: Histogram,
    lag: Histogram,
    certificates: Family<OfResult, Counter>,
    refusals: Family<OfReason, Counter>,
    injections: Family<OfOutcome, Counter>,
    missed: Gauge,
}

/// What became of a request for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// Signed, for a token.
    Token,
    /// Signed, for a certificate that is good still.
    Renewal,
    /// Not signed.
    Refused,
}

/// Why somebody was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// TLS could not agree, was not finished in time or gave way to somebody else, or the certificate is no good.
    Handshake,
    /// The call needs a certificate that names a workload.
    Unauthenticated,
    /// Too many streams begin at once.
    Admission,
    /// As many sidecars as there may be are here.
    Full,
    /// As many sidecars of one workload as there may be are here.
    Share,
    /// The connection has a stream already.
    Second,
    /// Too many who have no certificate are here, or it made no use of its time.
    Stranger,
}

impl Default for Counts {
    fn default() -> Self {
        let counts = Self {
            pushes: Family::default(),
            resources: Family::default(),
            nacks: Family::default(),
            propagation: Histogram::new(PROPAGATION),
            lag: Histogram::new(PROPAGATION),
            certificates: Family::default(),
            refusals: Family::default(),
            injections: Family::default(),
            missed: Gauge::default(),
        };
        // Every series is there from the first scrape on.
        for kind in Kind::ALL {
            let of = OfType {
                r#type: kind.as_str(),
            };
            drop(counts.pushes.get_or_create(&of));
            drop(counts.resources.get_or_create(&of));
            for cause in [
                Cause::Unspecified,
                Cause::Content,
                Cause::Limit,
                Cause::Missing,
                Cause::Place,
            ] {
                drop(counts.nacks.get_or_create(&OfNack::of(kind, cause)));
            }
        }
        for result in [Signing::Token, Signing::Renewal, Signing::Refused] {
            drop(counts.certificates.get_or_create(&result.label()));
        }
        for reason in Refusal::ALL {
            drop(counts.refusals.get_or_create(&reason.label()));
        }
        for outcome in Outcome::ALL {
            drop(counts.injections.get_or_create(&OfOutcome::of(outcome)));
        }
        counts
    }
}

impl Counts {
    /// A response was sent, with so many resources.
    pub fn pushed(&self, kind: Kind, resources: usize) {
        let of = OfType {
            r#type: kind.as_str(),
        };
        self.pushes.get_or_create(&of).inc();
        self.resources.get_or_create(&of).inc_by(resources as u64);
    }

    /// A sidecar rejected a resource.
    pub fn rejected(&self, kind: Kind, cause: Cause) {
        self.nacks.get_or_create(&OfNack::of(kind, cause)).inc();
    }

    /// A sidecar has applied a change, so long after it was made.
    pub fn propagated(&self, took: Duration) {
        self.propagation.observe(took.as_secs_f64());
    }

    /// A change of the source is good and about to be pushed, so long after it was made.
    pub fn lagged(&self, took: Duration) {
        self.lag.observe(took.as_secs_f64());
    }

    /// A certificate was asked for.
    pub fn signing(&self, result: Signing) {
        self.certificates.get_or_create(&result.label()).inc();
    }

    /// The API server has asked about a pod.
    pub fn injection(&self, outcome: Outcome) {
        self.injections.get_or_create(&OfOutcome::of(outcome)).inc();
    }

    /// So many pods are to have a sidecar and have none.
    pub fn missed(&self, pods: usize) {
        set(&self.missed, pods);
    }

    /// Somebody was turned away.
    pub fn refused(&self, reason: Refusal) {
        self.refusals.get_or_create(&reason.label()).inc();
    }
}

impl Signing {
    const fn label(self) -> OfResult {
        let result = match self {
            Self::Token => "token",
            Self::Renewal => "renewal",
            Self::Refused => "refused",
        };
        OfResult { result }
    }
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::Handshake,
        Self::Unauthenticated,
        Self::Admission,
        Self::Full,
        Self::Share,
        Self::Second,
        Self::Stranger,
    ];

    const fn label(self) -> OfReason {
        let reason = match self {
            Self::Handshake => "handshake",
            Self::Unauthenticated => "unauthenticated",
            Self::Admission => "admission",
            Self::Full => "full",
            Self::Share => "share",
            Self::Second => "second",
            Self::Stranger => "stranger",
        };
        OfReason { reason }
    }
}

/// How things are at the time of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// Sidecars by how they stand: acked, stale, rejected.
    pub sidecars: [usize; 3],
    /// Policies by how they stand: programmed everywhere, pending somewhere, rejected somewhere.
    pub policies: [usize; 3],
    /// Policies whose present content goes to all, to a share, and to none.
    pub rollouts: [usize; 3],
    /// Policies that are not in force for all that they are for.
    pub conflicts: usize,
    /// Whether the source as it is now is in force.
    pub is_source_good: bool,
    /// What could not be kept for a restart.
    pub unkept: usize,
    /// Counts the sets that were pushed.
    pub generation: u64,
    /// By root: sidecars that trust it, and certificates that it signed and that are alive.
    pub roots: Vec<(String, usize, usize)>,
    /// By root that signs or will: the life that ends first of the certificates from who signs to the root.
    pub signers: Vec<(String, Life)>,
    /// The next step of a rotation, and what it waits for.
    pub rotation_waits_for: (&'static str, usize),
}

/// What a scrape says.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// What is counted as it happens.
    pub counts: Counts,
    scrape: Arc<Mutex<Scrape>>,
}

#[derive(Debug)]
struct Scrape {
    registry: Registry,
    connected: Gauge,
    sidecars: Family<OfState, Gauge>,
    policies: Family<OfState, Gauge>,
    rollouts: Family<OfState, Gauge>,
    conflicts: Gauge,
    source: Gauge,
    unkept: Gauge,
    generation: Gauge,
    bundle: Family<OfRoot, Gauge>,
    certificates: Family<OfRoot, Gauge>,
    signer_ends: Family<OfRoot, Gauge>,
    signer_left: Family<OfRoot, Gauge<f64, AtomicU64>>,
    rotation: Family<OfStep, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let counts = Counts::default();
        let mut scrape = Scrape {
            registry: Registry::default(),
            connected: Gauge::default(),
            sidecars: Family::default(),
            policies: Family::default(),
            rollouts: Family::default(),
            conflicts: Gauge::default(),
            source: Gauge::default(),
            unkept: Gauge::default(),
            generation: Gauge::default(),
            bundle: Family::default(),
            certificates: Family::default(),
            signer_ends: Family::default(),
            signer_left: Family::default(),
            rotation: Family::default(),
        };
        scrape.register(&counts);
        Self {
            counts,
            scrape: Arc::new(Mutex::new(scrape)),
        }
    }

    /// The exposition, as OpenMetrics text.
    pub fn render(&self, levels: &Levels) -> String {
        let scrape = self.scrape.lock();
        scrape.set(levels);
        let mut out = String::with_capacity(8 * 1024);
        // Writing to a string does not fail; an encoder that did would leave the text cut short, which
        // a scraper notices by the missing end mark.
        if text::encode(&mut out, &scrape.registry).is_err() {
            out.clear();
        }
        out
    }
}

impl Scrape {
    fn register(&mut self, counts: &Counts) {
        self.register_push(counts);
        self.register_identity(counts);
        self.register_standing();
        self.registry.register(
            "jitney_injections",
            "New pods that the API server has asked about, by what became of them",
            counts.injections.clone(),
        );
        self.registry.register(
            "jitney_pods_missed",
            "Pods that are to have a sidecar and have none",
            counts.missed.clone(),
        );
    }

    fn register_push(&mut self, counts: &Counts) {
        let to = &mut self.registry;
        to.register(
            "jitney_xds_connected",
            "Sidecars with an open stream",
            self.connected.clone(),
        );
        to.register(
            "jitney_xds_pushes",
            "Responses sent, by type of resource",
            counts.pushes.clone(),
        );
        to.register(
            "jitney_xds_resources",
            "Resources in them: none where a sidecar came back and nothing had changed",
            counts.resources.clone(),
        );
        to.register(
            "jitney_xds_nacks",
            "Resources that a sidecar rejected, by type and kind of fault",
            counts.nacks.clone(),
        );
        to.register(
            "jitney_config_propagation_seconds",
            "From a change where it was made to its acknowledgement by a sidecar",
            counts.propagation.clone(),
        );
        to.register(
            "jitney_watch_lag_seconds",
            "From a change where it was made until it is read and about to be pushed",
            counts.lag.clone(),
        );
    }

    fn register_identity(&mut self, counts: &Counts) {
        let to = &mut self.registry;
        to.register(
            "jitney_certificates_issued",
            "Certificates asked for, by result",
            counts.certificates.clone(),
        );
        to.register(
            "jitney_refused",
            "Who was turned away, by reason",
            counts.refusals.clone(),
        );
        to.register(
            "jitney_trust_bundle_sidecars",
            "Sidecars of all replicas that trust a root: when all do, it can sign",
            self.bundle.clone(),
        );
        to.register(
            "jitney_sidecar_certificates",
            "Certificates of all replicas that a root signed and that are alive: when none is, it can be dropped",
            self.certificates.clone(),
        );
        to.register(
            "jitney_signer_expiration_timestamp_seconds",
            "When what signs for a root expires, itself or what is above it: sidecars' certificates end with it",
            self.signer_ends.clone(),
        );
        to.register(
            "jitney_signer_life_left_ratio",
            "The share of its life that is left to it",
            self.signer_left.clone(),
        );
        to.register(
            "jitney_rotation_waits_for",
            "Sidecars or certificates of all replicas that the next step of a rotation would cut off: 0 when it is safe",
            self.rotation.clone(),
        );
    }

    fn register_standing(&mut self) {
        let to = &mut self.registry;
        to.register(
            "jitney_sidecars",
            "Sidecars by how they stand to what they are to run",
            self.sidecars.clone(),
        );
        to.register(
            "jitney_policies",
            "Policies by how far they have come",
            self.policies.clone(),
        );
        to.register(
            "jitney_rollouts",
            "Policies by how far their present content may go",
            self.rollouts.clone(),
        );
        to.register(
            "jitney_policy_conflicts",
            "Targets that a policy is for and another one has",
            self.conflicts.clone(),
        );
        to.register(
            "jitney_source_accepted",
            "1 when the source as it is now is in force",
            self.source.clone(),
        );
        to.register(
            "jitney_state_faults",
            "What is wrong with the state: what could not be kept for a restart, read, or told to other replicas",
            self.unkept.clone(),
        );
        to.register(
            "jitney_snapshot_generation",
            "Counts the sets that were pushed",
            self.generation.clone(),
        );
    }

    fn set(&self, levels: &Levels) {
        let connected = levels.sidecars.iter().sum();
        set(&self.connected, connected);
        for (state, count) in ["acked", "stale", "rejected"].into_iter().zip(levels.sidecars) {
            set(&self.sidecars.get_or_create(&OfState { state }), count);
        }
        for (state, count) in ["programmed", "pending", "rejected"]
            .into_iter()
            .zip(levels.policies)
        {
            set(&self.policies.get_or_create(&OfState { state }), count);
        }
        for (state, count) in ["complete", "staged", "stopped"].into_iter().zip(levels.rollouts) {
            set(&self.rollouts.get_or_create(&OfState { state }), count);
        }
        set(&self.conflicts, levels.conflicts);
        set(&self.source, usize::from(levels.is_source_good));
        set(&self.unkept, levels.unkept);
        self.generation
            .set(i64::try_from(levels.generation).unwrap_or(i64::MAX));
        let (step, waits_for) = levels.rotation_waits_for;
        self.rotation.clear();
        set(&self.rotation.get_or_create(&OfStep { step }), waits_for);
        // Roots come and go; four at most.
        self.bundle.clear();
        self.certificates.clear();
        for (root, trusting, certificates) in &levels.roots {
            let of = OfRoot { root: root.clone() };
            set(&self.bundle.get_or_create(&of), *trusting);
            set(&self.certificates.get_or_create(&of), *certificates);
        }
        self.signer_ends.clear();
        self.signer_left.clear();
        for (root, life) in &levels.signers {
            let of = OfRoot { root: root.clone() };
            let ends = life.until.duration_since(UNIX_EPOCH).unwrap_or_default();
            let ends = i64::try_from(ends.as_secs()).unwrap_or(i64::MAX);
            self.signer_ends.get_or_create(&of).set(ends);
            self.signer_left
                .get_or_create(&of)
                .set(life.left(SystemTime::now()));
        }
    }
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// Seconds: from where the wait for quiet files begins to the longest back-off of a sidecar.
const PROPAGATION: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0,
];
