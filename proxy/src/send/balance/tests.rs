//! Who is chosen, over many calls.

use http::HeaderName;

use super::*;
use crate::send::gate::Gate;
use crate::send::{Address, BackendSettings};

fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
    let settings = BackendSettings::new("test", Vec::new());
    let gate = Arc::new(Gate::open());
    let address = |port| Address::Socket(([127, 0, 0, 1], port).into());
    (1..=count)
        .map(|port| Endpoint::start(address(port).into(), &settings, &gate))
        .collect()
}

fn shares(
    by: &LoadBalancer,
    endpoints: &[Arc<Endpoint>],
    headers: &HeaderMap,
    tried: &[usize],
) -> Vec<usize> {
    let (mut shares, balancer) = (vec![0; endpoints.len()], Balancer::default());
    for _ in 0..1000 {
        shares[balancer.pick(by, endpoints, Some(headers), tried, true).unwrap()] += 1;
    }
    shares
}

#[tokio::test(start_paused = true)]
async fn turns_are_equal_and_skip_the_tried() {
    let endpoints = endpoints(4);
    let by = LoadBalancer::RoundRobin;
    assert_eq!(shares(&by, &endpoints, &HeaderMap::new(), &[]), [250; 4]);
    let left = shares(&by, &endpoints, &HeaderMap::new(), &[1, 2]);
    assert_eq!((left[1], left[2]), (0, 0));
    assert!(
        Balancer::default()
            .pick(&by, &endpoints, None, &[0, 1, 2, 3], true)
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn the_busy_and_the_slow_get_less() {
    let endpoints = endpoints(3);
    endpoints[0].load.in_flight.store(5, Ordering::Relaxed);
    let least = shares(&LoadBalancer::LeastRequest, &endpoints, &HeaderMap::new(), &[]);
    assert_eq!(least[0], 0);
    endpoints[0].load.in_flight.store(0, Ordering::Relaxed);
    for (endpoint, millis) in endpoints.iter().zip([10, 10, 100]) {
        let began = Load::clock();
        tokio::time::advance(Duration::from_millis(millis)).await;
        endpoint.load.succeeded(began, Load::clock());
    }
    let ewma = shares(&LoadBalancer::PeakEwma, &endpoints, &HeaderMap::new(), &[]);
    assert_eq!(ewma[2], 0);
    assert!(ewma[0] > 300 && ewma[1] > 300, "{ewma:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_fast_attracts_nothing_and_is_asked_again_later() {
    let endpoints = endpoints(2);
    let began = Load::clock();
    tokio::time::advance(Duration::from_millis(10)).await;
    endpoints[0].load.succeeded(began, Load::clock());
    endpoints[1].load.succeeded(Load::clock(), Load::clock());
    for _ in 0..8 {
        endpoints[1].load.failed();
    }
    let by = LoadBalancer::PeakEwma;
    assert_eq!(shares(&by, &endpoints, &HeaderMap::new(), &[]), [1000, 0]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(endpoints[1].load.cost() <= endpoints[0].load.cost());
}

#[tokio::test(start_paused = true)]
async fn one_that_has_too_much_to_do_gets_less_until_its_time_is_over() {
    let endpoints = endpoints(2);
    for endpoint in &endpoints {
        let began = Load::clock();
        tokio::time::advance(Duration::from_millis(10)).await;
        endpoint.load.succeeded(began, Load::clock());
    }
    endpoints[1].load.spare(Some(Duration::from_secs(4)));
    for by in [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest] {
        let spared = shares(&by, &endpoints, &HeaderMap::new(), &[]);
        assert_eq!(spared, [1000, 0], "{by:?}");
    }
    // It is asked for help once the other has far more to do.
    endpoints[0].load.in_flight.store(20, Ordering::Relaxed);
    let helped = shares(&LoadBalancer::LeastRequest, &endpoints, &HeaderMap::new(), &[]);
    assert_eq!(helped, [0, 1000]);
    endpoints[0].load.in_flight.store(0, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(4)).await;
    let over = shares(&LoadBalancer::LeastRequest, &endpoints, &HeaderMap::new(), &[]);
    assert!(over[1] > 300, "{over:?}");
}

#[tokio::test(start_paused = true)]
async fn equal_values_meet_the_same_endpoint_and_few_move_when_one_goes() {
    let endpoints = endpoints(5);
    let balancer = Balancer::default();
    let by = LoadBalancer::ConsistentHash {
        header: HeaderName::from_static("x-user"),
    };
    let mut moved = 0;
    for user in 0..1000 {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", user.into());
        let chosen = balancer.pick(&by, &endpoints, Some(&headers), &[], true).unwrap();
        assert_eq!(
            balancer.pick(&by, &endpoints, Some(&headers), &[], true).unwrap(),
            chosen
        );
        let without_last = balancer
            .pick(&by, &endpoints[..4], Some(&headers), &[], true)
            .unwrap();
        moved += usize::from(chosen != 4 && without_last != chosen);
    }
    assert_eq!(moved, 0);
}

#[tokio::test]
async fn tries_elsewhere_take_no_turn_from_other_calls() {
    for count in 2..5_usize {
        let endpoints = endpoints(u16::try_from(count).unwrap());
        let balancer = Balancer::default();
        let mut first = vec![0; count];
        let mut elsewhere = vec![0; count];
        let by = LoadBalancer::RoundRobin;
        for _ in 0..100 * count {
            let at = balancer.pick(&by, &endpoints, None, &[], true).unwrap();
            first[at] += 1;
            if at == 0 {
                elsewhere[balancer.pick(&by, &endpoints, None, &[0], false).unwrap()] += 1;
            }
        }
        assert_eq!(first, vec![100; count]);
        assert!(elsewhere[1..].iter().all(|share| *share >= 15), "{elsewhere:?}");
    }
}
