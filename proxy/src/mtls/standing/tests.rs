//! Two sidecars, a connection between them, and what they hold of each other.

use rustls::RootCertStore;
use tokio::net::{TcpListener, TcpStream};

use super::super::authority::Authority;
use super::super::{Credentials, Inside};
use super::*;
use crate::keepalive::Attended;
use crate::wire::Wire;

fn signed(authority: &Authority, workload: &str, life: Duration) -> Credentials {
    let now = SystemTime::now();
    authority.sign(workload, now - HOUR, now + life)
}

fn roots(of: &[&Authority]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for authority in of {
        roots.add(authority.root.der().clone()).unwrap();
    }
    roots
}

/// What a caller holds of a callee, and the callee of the caller.
async fn met(caller: &Mesh, callee: &Mesh) -> (Standing, Standing) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let users = "shop/users".parse().unwrap();
    let (connected, accepted) = tokio::join!(
        caller.connect(stream, &users, Inside::Http2),
        callee.accept(Wire::new(Attended::new(accepted)))
    );
    (connected.unwrap().standing, accepted.unwrap().standing)
}

/// Two sidecars that show these and trust one authority.
fn pair(authority: &Authority, lives: [Duration; 2]) -> [Mesh; 2] {
    let shown = |(workload, life)| {
        let mesh = Mesh::default();
        let credentials = signed(authority, workload, life);
        mesh.show(&credentials, roots(&[authority])).unwrap();
        mesh
    };
    [("front", lives[0]), ("users", lives[1])].map(shown)
}

#[tokio::test]
async fn what_is_proven_ends_when_a_certificate_does_on_whichever_side() {
    let authority = Authority::new();
    let [front, users] = pair(&authority, [HOUR, Duration::from_secs(3)]);
    let (of_users, of_front) = met(&front, &users).await;
    of_users.nears_its_end().await;
    assert!(!of_users.is_over());
    of_users.ended().await;
    assert!(of_users.is_over() && !of_front.is_over());
    assert!(SystemTime::now() >= of_users.0.not_after);
    // It was good when the connection was made, and so is what cannot be told to come again.
    let disowned = of_users.disowned();
    tokio::pin!(disowned);
    let next = Authority::new();
    let (credentials, next_one) = (signed(&authority, "front", HOUR), signed(&next, "front", HOUR));
    front.show(&credentials, roots(&[&authority, &next])).unwrap();
    for _ in 0..100 {
        tokio::select! {
            biased;
            () = &mut disowned => panic!("the root is trusted still"),
            () = tokio::task::yield_now() => {}
        }
    }
    front.show(&next_one, roots(&[&next])).unwrap();
    disowned.await;
}

#[tokio::test]
async fn what_is_proven_ends_with_its_root_and_not_with_another() {
    let [one, two] = [(); 2].map(|()| Authority::new());
    let [front, users] = pair(&one, [HOUR; 2]);
    let (of_users, of_front) = met(&front, &users).await;
    assert!(!of_users.is_outdated());
    let credentials = signed(&one, "front", HOUR);
    front.show(&credentials, roots(&[&one, &two])).unwrap();
    assert!(of_users.is_outdated(), "another connection shows the new one");
    let ended = of_users.ended();
    tokio::pin!(ended);
    // Enough for it to see that the roots have changed, which all is right with.
    for _ in 0..100 {
        tokio::select! {
            biased;
            () = &mut ended => panic!("the root is trusted still"),
            () = tokio::task::yield_now() => {}
        }
    }
    let (again, _) = met(&front, &users).await;
    front.show(&credentials, roots(&[&one, &two])).unwrap();
    assert!(!again.is_outdated(), "the same were shown a second time");
    front.show(&signed(&two, "front", HOUR), roots(&[&two])).unwrap();
    ended.await;
    again.nears_its_end().await;
    assert!(of_users.is_over() && !of_front.is_over());
}

const HOUR: Duration = Duration::from_secs(3600);
