//! Traffic settings.

use std::num::NonZeroUsize;

use http::StatusCode;
use jitney_core::grpc::Code;
use jitney_core::policy as core;

use super::{Check, batching, detour, matching};
use crate::node::Path;
use crate::{
    AdaptiveConcurrency, CircuitBreaker, Duration, LoadBalancer, LoadBalancerType, RateLimit, RatePer, Retry,
    RetryCondition, Timeouts, Traffic, TrafficDistribution,
};

/// Traffic settings; a part at fault is as by default.
pub(super) fn traffic(check: &Check<'_>, path: &Path, settings: &Traffic) -> core::Traffic {
    let Timeouts { request, per_try } = settings.timeouts;
    if request != Duration::default() && per_try > request {
        let message = format!("found {per_try}, expected at most timeouts.request, which is {request}");
        check.fault(&path.keys("timeouts.perTry"), message);
    }
    core::Traffic {
        timeouts: timeouts(&settings.timeouts),
        retry: settings
            .retry
            .as_ref()
            .map(|settings| retry(check, &path.key("retry"), settings)),
        load_balancer: load_balancer(check, &path.key("loadBalancer"), &settings.load_balancer),
        prefers_zone: settings.load_balancer.traffic_distribution
            == Some(TrafficDistribution::PreferSameZone),
        circuit_breaker: settings
            .circuit_breaker
            .as_ref()
            .map(|settings| circuit_breaker(check, &path.key("circuitBreaker"), settings)),
        adaptive_concurrency: settings
            .adaptive_concurrency
            .as_ref()
            .map(|settings| adaptive_concurrency(check, &path.key("adaptiveConcurrency"), settings)),
        rate_limit: settings
            .rate_limit
            .as_ref()
            .map(|settings| rate_limit(check, &path.key("rateLimit"), settings)),
        detours: detour::detours(check, path, settings),
    }
}

/// Bounds in time; zero is none.
fn timeouts(settings: &Timeouts) -> core::Timeouts {
    let bound = |duration: Duration| (duration != Duration::default()).then_some(duration.0);
    core::Timeouts {
        request: bound(settings.request),
        per_try: bound(settings.per_try),
    }
}

fn retry(check: &Check<'_>, path: &Path, settings: &Retry) -> core::Retry {
    if !(1..=10).contains(&settings.attempts) {
        check.fault(
            &path.key("attempts"),
            format!("found {}, expected 1 to 10", settings.attempts),
        );
    }
    if settings.on.is_empty() {
        check.fault(
            &path.key("on"),
            format!("found no condition, expected some of {CONDITIONS}"),
        );
    }
    let on = retry_on(check, &path.key("on"), &settings.on);
    share(check, &path.keys("budget.ratio"), settings.budget.ratio);
    let budget = core::RetryBudget {
        ratio: settings.budget.ratio,
        min_per_second: settings.budget.min_per_second,
    };
    core::Retry {
        attempts: settings.attempts,
        on,
        budget,
        replay: batching::leave(settings.replay),
    }
}

fn retry_on(check: &Check<'_>, path: &Path, conditions: &[RetryCondition]) -> core::RetryOn {
    let mut on = core::RetryOn::default();
    for (index, condition) in conditions.iter().enumerate() {
        match condition.0.as_str() {
            "connect-failure" => on.connect_failure = true,
            "reset" => on.reset = true,
            "refused-stream" => on.refused_stream = true,
            "gateway-error" => on.statuses.extend([502, 503, 504].map(status)),
            "5xx" => on.statuses.extend((500..600).map(status)),
            "cancelled" => on.codes.push(Code::CANCELLED),
            "deadline-exceeded" => on.codes.push(Code::DEADLINE_EXCEEDED),
            "internal" => on.codes.push(Code::INTERNAL),
            "resource-exhausted" => on.codes.push(Code::RESOURCE_EXHAUSTED),
            "unavailable" => on.codes.push(Code::UNAVAILABLE),
            other => match other.parse::<u16>() {
                Ok(code) if (400..600).contains(&code) => on.statuses.push(status(code)),
                _ => {
                    let path = path.index(index);
                    check.fault(&path, format!("found {other:?}, expected one of {CONDITIONS}"));
                }
            },
        }
    }
    on.statuses.sort_unstable();
    on.statuses.dedup();
    on
}

/// Codes from 400 to 599 are statuses.
fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn share(check: &Check<'_>, path: &Path, found: f64) {
    if !(0.0..=1.0).contains(&found) {
        check.fault(path, format!("found {found}, expected a share from 0 to 1"));
    }
}

fn load_balancer(check: &Check<'_>, path: &Path, settings: &LoadBalancer) -> core::LoadBalancer {
    let at = path.key("header");
    match (settings.kind, settings.header.as_deref()) {
        (LoadBalancerType::ConsistentHash, Some(text)) => {
            let header = matching::header(check, &at, text);
            header.map_or_else(core::LoadBalancer::default, |header| {
                core::LoadBalancer::ConsistentHash { header }
            })
        }
        (LoadBalancerType::ConsistentHash, None) => {
            check.fault(
                &at,
                "found nothing, expected the field that type: ConsistentHash hashes",
            );
            core::LoadBalancer::default()
        }
        (kind, header) => {
            if let Some(text) = header {
                check.fault(
                    &at,
                    format!("found {text:?}, expected it only with type: ConsistentHash"),
                );
            }
            match kind {
                LoadBalancerType::LeastRequest => core::LoadBalancer::LeastRequest,
                LoadBalancerType::RoundRobin => core::LoadBalancer::RoundRobin,
                LoadBalancerType::PeakEwma | LoadBalancerType::ConsistentHash => core::LoadBalancer::PeakEwma,
            }
        }
    }
}

fn circuit_breaker(check: &Check<'_>, path: &Path, settings: &CircuitBreaker) -> core::CircuitBreaker {
    let &CircuitBreaker {
        max_requests,
        consecutive_failures,
        success_rate,
        base_ejection_time,
    } = settings;
    for (field, found) in [
        ("maxRequests", max_requests),
        ("consecutiveFailures", consecutive_failures),
    ] {
        if found == 0 {
            check.fault(&path.key(field), "found 0, expected at least 1");
        }
    }
    share(check, &path.key("successRate"), success_rate);
    if base_ejection_time == Duration::default() {
        check.fault(&path.key("baseEjectionTime"), "found 0s, expected a time above 0");
    }
    core::CircuitBreaker {
        max_requests,
        consecutive_failures,
        success_rate,
        base_ejection_time: base_ejection_time.0,
    }
}

fn adaptive_concurrency(
    check: &Check<'_>,
    path: &Path,
    settings: &AdaptiveConcurrency,
) -> core::AdaptiveConcurrency {
    let &AdaptiveConcurrency {
        min_concurrency: min,
        max_concurrency: max,
    } = settings;
    if min == 0 {
        check.fault(&path.key("minConcurrency"), "found 0, expected at least 1");
    }
    if max < min {
        check.fault(
            &path.key("maxConcurrency"),
            format!("found {max}, expected at least minConcurrency, which is {min}"),
        );
    }
    let bound = |count: u32| usize::try_from(count).ok().and_then(NonZeroUsize::new);
    core::AdaptiveConcurrency {
        min: bound(min).unwrap_or(NonZeroUsize::MIN),
        max: bound(max.max(min)).unwrap_or(NonZeroUsize::MIN),
    }
}

fn rate_limit(check: &Check<'_>, path: &Path, settings: &RateLimit) -> core::RateLimit {
    let found = settings.requests_per_second;
    if !(found.is_finite() && found > 0.0) {
        check.fault(
            &path.key("requestsPerSecond"),
            format!("found {found}, expected a number above 0"),
        );
    }
    core::RateLimit {
        requests_per_second: found,
        per: match settings.per {
            RatePer::Backend => core::RatePer::Backend,
            RatePer::Identity => core::RatePer::Identity,
        },
    }
}

const CONDITIONS: &str = "connect-failure, reset, refused-stream, gateway-error, 5xx, cancelled, deadline-exceeded, internal, \
     resource-exhausted, unavailable, or a status from 400 to 599";
